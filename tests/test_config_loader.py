"""Credentials: none, local, and the environment's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from spamcaf.config_loader import ProjectConfigLoader


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for env in ("base", "local", "her2st"):
        (tmp_path / env).mkdir()
    return tmp_path


def token(conf: Path, env: str) -> object:
    return ProjectConfigLoader(str(conf), env=env, base_env="base", default_run_env="local")["credentials"][
        "huggingface"
    ]


def test_no_credentials_mean_the_login_of_the_hub(conf: Path) -> None:
    assert token(conf, "her2st") == {"token": None}


@pytest.mark.parametrize("env", ["local", "her2st"])
def test_local_credentials_hold_in_every_environment(conf: Path, env: str) -> None:
    (conf / "local" / "credentials.yml").write_text("huggingface: {token: mine}")
    assert token(conf, env) == {"token": "mine"}


def test_credentials_of_the_environment_win(conf: Path) -> None:
    (conf / "local" / "credentials.yml").write_text("huggingface: {token: mine}")
    (conf / "her2st" / "credentials.yml").write_text("huggingface: {token: theirs}")
    assert token(conf, "her2st") == {"token": "theirs"}

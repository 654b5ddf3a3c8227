"""A wheel, built from the source distribution, runs where there is no source tree, with the configuration it holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from spamcaf.cli import as_called
from tests.conftest import OFFLINE, ROOT, SIMULATION

SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
NAMES = {"catalog.yml", "globals.yml", "parameters.yml"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the source distribution, and the wheel that was built from it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        shutil.copy(ROOT / name, tree / name)
    for name in ("conf", "src"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for env in ("local", "base"):
        (tree / "conf" / env / "credentials.yml").write_text("huggingface: {token: secret}")
    (tree / "conf/local/globals.yml").write_text("section: of_the_developer")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the wheel alone is installed."""
    site = tmp_path_factory.mktemp("site")
    wheel = next(built.glob("*.whl"))
    install = ["install", "--no-deps", "--no-index", "--no-compile", "-q", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return site


def test_wheel_and_source_distribution_hold_the_configuration_and_no_secret(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = {Path(name).relative_to("spamcaf/conf") for name in wheel.namelist() if name.startswith("spamcaf/conf/")}
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        sources = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    conf = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yml") if path.name in NAMES}
    conf = {path for path in conf if path.parts[0] != "local"}
    assert held == {*conf, Path("logging.yml"), Path("local/.gitkeep")}
    assert {Path("conf") / path for path in conf} <= sources
    assert not [path for path in sources if "local" in path.parts or "credentials" in path.name]


@pytest.fixture
def spamcaf(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that calls the installed command, or the installed module, in an empty folder."""

    def call(*words: str, module: bool = False) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "spamcaf"] if module else [sys.executable, str(installed / "bin/spamcaf")]
        environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(installed)}
        return subprocess.run(
            [*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return call


def test_an_installed_command_works_in_any_folder(
    spamcaf: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """A section is written, and read again as a user's own, in an environment of the working directory."""
    for env, chosen in {
        "tiny": {"simulation": SIMULATION},
        "mine": {"section": "simulated", "raw_root": "data/01_raw", "source": "files"},
    }.items():
        (tmp_path / "conf" / env).mkdir(parents=True)
        (tmp_path / "conf" / env / "globals.yml").write_text(yaml.safe_dump(chosen))
    done = spamcaf("run", "--pipelines", "simulation", "--env", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr
    assert (tmp_path / "data/01_raw/simulated/spatial").is_dir()
    params = ("--params", "panel.n_genes=60")
    done = spamcaf("run", "--pipelines", "ingestion", "--env", "mine", *params, module=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data/02_intermediate/simulated/section.h5ad").is_file()
    refused = spamcaf("run", "--env", "mine", "--params", "section=nobody")
    assert refused.returncode == 1
    assert f"no section 'nobody' in {tmp_path / 'data/01_raw'}" in refused.stderr


def test_next_steps_name_the_command_that_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Run `kedro run --env own`, or kedro doctor; see kedro viz."
    assert as_called(text) == text
    monkeypatch.setattr("spamcaf.cli.PROGRAM", "spamcaf")
    assert as_called(text) == "Run `spamcaf run --env own`, or spamcaf doctor; see kedro viz."

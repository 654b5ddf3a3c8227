"""Names, paths and genes are what the user wrote, whatever YAML makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from spamcaf.cli import doctor, run
from spamcaf.config_loader import ProjectConfigLoader
from spamcaf.errors import InputError
from spamcaf.parameters import PanelSettings, ReportSettings

NUMBERLIKE = ["1_1", "007", "017", "1e3", "0x10", "1.10", "true", "NO", "null", "2024-01-01", "1:30", "151673", ".5"]
SIGNS = ["...", "*", "%41", "@a", "a'b", "a: b", "a #b", "{x", "- a", "&x", "!x", "|", "~"]
LIKE_KEDRO = {"base_env": "base", "default_run_env": "local"}


def typed(params: str, command: click.Command = run) -> dict[str, Any]:
    return command.make_context(command.name, ["--params", params]).params["params"]


@pytest.mark.parametrize("command", [run, doctor])
@pytest.mark.parametrize("text", [*NUMBERLIKE, *SIGNS])
def test_a_choice_on_the_command_line_is_taken_as_typed(command: click.Command, text: str) -> None:
    names = ("section", "model", "raw_root", "backbone", "other_sections")
    found = typed(",".join(f"{name}={text}" for name in names), command)
    assert found == dict.fromkeys(names, text)


def test_a_quoted_name_is_the_name() -> None:
    assert typed("section='1_1',model=\"007\"") == {"section": "1_1", "model": "007"}


def test_bins_and_paths_are_taken_as_typed_and_may_be_left_out() -> None:
    assert typed("bin_um=016,image=1_1,backbone_source=1e3") == {
        "bin_um": "016",
        "image": "1_1",
        "backbone_source": "1e3",
    }
    assert typed("image=null,bin_um=,other_sections=[]") == {"image": None, "bin_um": None, "other_sections": []}


def test_genes_are_names() -> None:
    found = typed("panel.genes=1 1e3 MARCH1,panel.include=1_1,report.genes=[NO]")
    assert found == {"panel": {"genes": "1 1e3 MARCH1", "include": "1_1"}, "report": {"genes": "NO"}}


def test_other_settings_are_yaml_without_octal_numbers() -> None:
    found = typed("grid.subdivide=010,fit.learning_rate=1e-3,tiles.dense=true,seed=0,transfer.mpp=0.5")
    assert found == {
        "grid": {"subdivide": 10}, "fit": {"learning_rate": 1e-3}, "tiles": {"dense": True}, "seed": 0,
        "transfer": {"mpp": 0.5},
    }  # fmt: skip


@pytest.mark.parametrize("params", ["panel.method=*", "panel.method=%41", "section='S1"])
def test_what_yaml_cannot_read_is_one_sentence(params: str) -> None:
    with pytest.raises(click.ClickException, match="Found: .* Expected: .* Next step: Quote"):
        typed(params)


def in_file(folder: Path, text: str) -> dict[str, Any]:
    (folder / "run.yml").write_text(text)
    return run.make_context("run", ["--config", str(folder / "run.yml")]).params["params"]


def test_a_config_file_is_taken_as_written(tmp_path: Path) -> None:
    params = "{section: 1_1, other_sections: [007], seed: 7, panel: {n_genes: 50, genes: [1_1, A]}}"
    assert in_file(tmp_path, f"run:\n  params: {params}") == {
        "section": "1_1", "other_sections": ["007"], "seed": 7, "panel": {"n_genes": 50, "genes": ["1_1", "A"]}
    }  # fmt: skip
    assert in_file(tmp_path, "run:\n  params: section=1_1,seed=7") == {"section": "1_1", "seed": 7}


@pytest.mark.parametrize("text", ["runs: {}", "run: *x"])
def test_a_config_file_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(click.ClickException, match="run.yml, which cannot be read"):
        in_file(tmp_path, text)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for env in ("base", "local"):
        (tmp_path / env).mkdir()
    return tmp_path


def loaded(conf: Path, key: str, **params: object) -> dict[str, Any]:
    return ProjectConfigLoader(str(conf), runtime_params=params, **LIKE_KEDRO)[key]


@pytest.mark.parametrize("text", NUMBERLIKE)
@pytest.mark.parametrize("env", ["base", "local"])
def test_a_name_in_globals_is_taken_as_written(conf: Path, text: str, env: str) -> None:
    (conf / "base/globals.yml").write_text("section: other\nother_sections: []\nimage: null\nseed: 1_1")
    (conf / env / "globals.yml").write_text(
        f"section: {text}\nother_sections: [{text}, A]\nimage: null\nseed: 1_1\nbin_um: 016"
    )
    found = loaded(conf, "globals")
    assert found == {"section": text, "other_sections": [text, "A"], "image": None, "seed": 11, "bin_um": "016"}


def test_the_catalog_uses_the_name_as_written(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("section: 1_1\nother_sections: 151674")
    (conf / "base/catalog.yml").write_text(
        "a: {section: '${runtime_params:section,${globals:section}}', names: '${globals:other_sections}'}"
    )
    assert loaded(conf, "catalog")["a"] == {"section": "1_1", "names": "151674"}
    assert loaded(conf, "catalog", section="1e3")["a"]["section"] == "1e3"


def test_nothing_is_no_other_section(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("other_sections: null")
    assert loaded(conf, "globals") == {"other_sections": None}


def test_genes_in_parameters_are_taken_as_written(conf: Path) -> None:
    (conf / "base/parameters.yml").write_text(
        "panel: {include: &genes [1, 1e3, NO, MARCH1], n_genes: 1_0}\nreport: {genes: *genes}"
    )
    found = loaded(conf, "parameters")
    assert found["panel"] == {"include": ["1", "1e3", "NO", "MARCH1"], "n_genes": 10}
    assert found["report"] == {"genes": ["1", "1e3", "NO", "MARCH1"]}


def test_an_unreadable_file_is_named_with_its_line(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("raw_root: data\nsection: *")
    with pytest.raises(InputError, match=r"base/globals\*\.yml, line 2, which cannot be read .*quotes"):
        loaded(conf, "globals")


@pytest.mark.parametrize(("value", "text"), [(151673, "151673"), (0, "0"), ("1_1", "1_1"), (Path("a/b"), "a/b")])
def test_a_session_may_give_texts_and_whole_numbers(conf: Path, value: object, text: str) -> None:
    (conf / "base/parameters.yml").write_text("seed: 1")
    assert loaded(conf, "parameters", section=value)["section"] == text


def test_a_session_may_give_lists_and_numbers_where_they_are_meant(conf: Path) -> None:
    (conf / "base/parameters.yml").write_text("seed: 1")
    found = loaded(conf, "parameters", other_sections=[151674, "B"], bin_um=16.0, image=None, seed=2)
    assert found == {"other_sections": ["151674", "B"], "bin_um": "16", "image": None, "seed": 2}


@pytest.mark.parametrize("value", [1000.0, True, None, {"a": 1}, ["S1"], "${HOME}", "???"])
def test_what_may_have_been_another_text_is_refused(conf: Path, value: object) -> None:
    with pytest.raises(InputError, match="section = "):
        loaded(conf, "globals", section=value)


@pytest.mark.parametrize("kind", [PanelSettings, ReportSettings])
@pytest.mark.parametrize("genes", ["ERBB2 CD74", "ERBB2, CD74", "ERBB2\nCD74\n", ["ERBB2", "CD74"]])
def test_all_lists_of_genes_are_of_one_type(kind: type[PanelSettings | ReportSettings], genes: str | list[str]) -> None:
    assert kind.model_validate({"genes": genes}).genes == ["ERBB2", "CD74"]
    assert kind.model_validate({"genes": [1, "CD74"]}).genes == ["1", "CD74"]

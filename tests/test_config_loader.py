"""Names are taken as typed, old names of settings renamed, paths made absolute, and credentials completed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from spamcaf import config_loader
from spamcaf.cli import doctor, run
from spamcaf.config_loader import ProjectConfigLoader
from spamcaf.errors import InputError

Run = Callable[..., subprocess.CompletedProcess[str]]
NUMBERLIKE = ["1_1", "007", "017", "1e3", "0x10", "1.10", "true", "NO", "null", "2024-01-01", "1:30", "151673", ".5"]
SIGNS = ["...", "*", "%41", "@a", "a'b", "a: b", "a #b", "{x", "- a", "&x", "!x", "|", "~"]
LIKE_KEDRO: dict[str, Any] = {"base_env": "base", "default_run_env": "local", "merge_strategy": {"parameters": "soft"}}


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
def test_params_that_yaml_cannot_read_are_one_sentence(params: str) -> None:
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


@pytest.mark.parametrize(
    "text", ["runs: {}", "run: *x", "run:", "run: [a]", "run: {tags: }", "run: {tags: '${a'}", "3"]
)
def test_an_unreadable_config_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(click.ClickException, match="run.yml, which cannot be read"):
        in_file(tmp_path, text)


def test_a_config_file_that_is_no_text_or_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_bytes(b"run:\n  tags: \xff\n")
    with pytest.raises(click.ClickException, match="run.yml, which cannot be read"):
        run.make_context("run", ["--config", str(tmp_path / "run.yml")])
    os.mkfifo(tmp_path / "pipe.yml")
    with pytest.raises(click.ClickException, match="pipe.yml, which is a pipe"):
        run.make_context("run", ["--config", str(tmp_path / "pipe.yml")])


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    for env in ("base", "local", "her2st"):
        (tmp_path / env).mkdir()
    return tmp_path


def load(conf: Path, key: str, env: str = "local", **params: object) -> dict[str, Any]:
    return ProjectConfigLoader(str(conf), env=env, runtime_params=params, **LIKE_KEDRO)[key]


@pytest.mark.parametrize("text", NUMBERLIKE)
@pytest.mark.parametrize("env", ["base", "local"])
def test_a_name_in_globals_is_taken_as_written(conf: Path, text: str, env: str) -> None:
    (conf / "base/globals.yml").write_text("section: other\nother_sections: []\nimage: null\nseed: 1_1")
    (conf / env / "globals.yml").write_text(
        f"section: {text}\nother_sections: [{text}, A]\nimage: null\nseed: 1_1\nbin_um: 016"
    )
    found = load(conf, "globals")
    assert found == {"section": text, "other_sections": [text, "A"], "image": None, "seed": 11, "bin_um": "016"}


def test_paths_of_any_entry_start_at_the_root(conf: Path) -> None:
    (conf / "base/catalog.yml").write_text("a: {filepath: raw, labels: raw/layers.tsv, inner: {image: ~/x.tif}}")
    root, home = conf.parent, Path("~").expanduser()
    assert load(conf, "catalog")["a"] == {
        "filepath": str(root / "raw"), "labels": str(root / "raw/layers.tsv"), "inner": {"image": str(home / "x.tif")}
    }  # fmt: skip


def test_the_catalog_uses_the_name_as_written(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("section: 1_1\nother_sections: 151674")
    (conf / "base/catalog.yml").write_text(
        "a: {section: '${runtime_params:section,${globals:section}}', names: '${globals:other_sections}'}"
    )
    assert load(conf, "catalog")["a"] == {"section": "1_1", "names": "151674"}
    assert load(conf, "catalog", section="1e3")["a"]["section"] == "1e3"


def test_nothing_is_no_other_section(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("other_sections: null")
    assert load(conf, "globals") == {"other_sections": None}


@pytest.mark.parametrize("text", ["1_1", "C2+C3", "007"])
def test_what_a_benchmark_runs_over_has_short_names(conf: Path, text: str) -> None:
    (conf / "base/parameters.yml").write_text("benchmark: {sections: [], masks: [0], n_bootstrap: 9}")
    given = typed(f"sections={text},masks=0-4,benchmark.n_bootstrap=5")
    assert given["sections"] == text
    expected = {"sections": text, "masks": "0-4", "n_bootstrap": 5}
    assert load(conf, "parameters", **given) == {"benchmark": expected}


def test_genes_in_parameters_are_taken_as_written(conf: Path) -> None:
    (conf / "base/parameters.yml").write_text(
        "panel: {include: &genes [1, 1e3, NO, MARCH1], n_genes: 1_0}\nreport: {genes: *genes}"
    )
    found = load(conf, "parameters")
    assert found["panel"] == {"include": ["1", "1e3", "NO", "MARCH1"], "n_genes": 10}
    assert found["report"] == {"genes": ["1", "1e3", "NO", "MARCH1"]}


def test_an_unreadable_file_is_named_with_its_line(conf: Path) -> None:
    (conf / "base/globals.yml").write_text("raw_root: data\nsection: *")
    with pytest.raises(InputError, match=r"base/globals\*\.yml, line 2, which cannot be read .*quotes"):
        load(conf, "globals")


@pytest.mark.parametrize(("value", "text"), [(151673, "151673"), (0, "0"), ("1_1", "1_1"), (Path("a/b"), "a/b")])
def test_a_session_may_give_texts_and_whole_numbers(conf: Path, value: object, text: str) -> None:
    (conf / "base/parameters.yml").write_text("seed: 1")
    assert load(conf, "parameters", section=value)["section"] == text


def test_a_session_may_give_lists_and_numbers_where_they_are_meant(conf: Path) -> None:
    (conf / "base/parameters.yml").write_text("seed: 1")
    found = load(conf, "parameters", other_sections=[151674, "B"], bin_um=16.0, image=None, seed=2)
    assert found == {"other_sections": ["151674", "B"], "bin_um": "16", "image": None, "seed": 2}


@pytest.mark.parametrize("value", [1000.0, True, None, {"a": 1}, ["S1"], "${HOME}", "???"])
def test_what_may_have_been_another_text_is_refused(conf: Path, value: object) -> None:
    with pytest.raises(InputError, match="section = "):
        load(conf, "globals", section=value)


WARNING = "fit.hide_share is now called fit.context_dropout; the next version refuses the old setting."


@pytest.fixture
def fit_conf(conf: Path) -> Path:
    """Return a configuration with the present names in `base`, as conf/base has them."""
    (conf / "base/parameters.yml").write_text(
        "fit: {context_dropout: 0.5, epochs: 40}\nreleased: {checkpoint_epochs: 100}"
    )
    return conf


def test_an_old_name_in_an_environment_replaces_the_default(fit_conf: Path, caplog: pytest.LogCaptureFixture) -> None:
    (fit_conf / "her2st/parameters.yml").write_text("fit: {hide_share: 0.25}")
    loader = ProjectConfigLoader(str(fit_conf), env="her2st", **LIKE_KEDRO)
    for _ in range(3):  # as Kedro does
        assert loader["parameters"]["fit"] == {"context_dropout": 0.25, "epochs": 40}
    assert [record.getMessage() for record in caplog.records] == [WARNING]


def test_an_old_name_on_the_command_line_replaces_the_new_one_in_files(
    fit_conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (fit_conf / "her2st/parameters.yml").write_text("fit: {context_dropout: 0.25}")
    found = load(fit_conf, "parameters", "her2st", **typed("fit.hide_share=0.125"))
    assert found["fit"] == {"context_dropout": 0.125, "epochs": 40}
    assert [record.getMessage() for record in caplog.records] == [WARNING]


def test_a_new_name_on_the_command_line_replaces_the_old_one_in_files(fit_conf: Path) -> None:
    (fit_conf / "her2st/parameters.yml").write_text("fit: {hide_share: 0.25}")
    found = load(fit_conf, "parameters", "her2st", **typed("fit.context_dropout=0.125"))
    assert found["fit"] == {"context_dropout": 0.125, "epochs": 40}


@pytest.mark.parametrize("both", ["hide_share: 0.25, context_dropout: 0.5", "context_dropout: 0.5, hide_share: 0.25"])
def test_both_names_with_different_values_in_one_source_are_refused(fit_conf: Path, both: str) -> None:
    message = r"fit\.hide_share = 0\.25 and fit\.context_dropout = 0\.5"
    with pytest.raises(InputError, match=message):
        load(fit_conf, "parameters", fit=yaml.safe_load(f"{{{both}}}"))
    (fit_conf / "local/parameters.yml").write_text(f"fit: {{{both}}}")
    with pytest.raises(InputError, match=message):
        load(fit_conf, "parameters")


def test_both_names_in_two_files_of_one_environment_are_a_duplicate(fit_conf: Path) -> None:
    (fit_conf / "local/parameters.yml").write_text("fit: {hide_share: 0.25}")
    (fit_conf / "local/parameters_fit.yml").write_text("fit: {context_dropout: 0.5}")
    with pytest.raises(ValueError, match=r"Duplicate keys .*fit\.context_dropout"):
        load(fit_conf, "parameters")


def test_a_setting_without_effect_is_dropped_from_spamcaf_alone(
    fit_conf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (fit_conf / "local/parameters.yml").write_text("fit: {checkpoint_epochs: 2}")
    found = load(fit_conf, "parameters", **typed("fit.checkpoint_epochs=3,released.checkpoint_epochs=7"))
    assert found == {"fit": {"context_dropout": 0.5, "epochs": 40}, "released": {"checkpoint_epochs": 7}}
    assert len(caplog.records) == 1


def test_old_names_reach_the_nodes_of_a_run(project: Path) -> None:
    bootstrap_project(project)
    params = {"fit": {"blind_share": 0.375}}
    with KedroSession.create(project, env="tiny", runtime_params=params) as session:
        context = session.load_context()
        assert context.params["fit"].transfer_step_share == 0.375
        assert context.catalog.load("params:fit").transfer_step_share == 0.375


def test_both_names_on_the_command_line_are_one_short_message(kedro: Run) -> None:
    done = kedro("run", "--params", "fit.hide_share=0.25,fit.context_dropout=0.5")
    assert done.returncode == 1
    assert "Remove fit.hide_share." in done.stderr
    assert "Traceback" not in done.stderr


def token(conf: Path, env: str) -> object:
    return load(conf, "credentials", env)["huggingface"]


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


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder that is not the project's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder


def entries(project: Path, **params: str) -> dict[str, Any]:
    bootstrap_project(project)
    with KedroSession.create(project, env="dlpfc", runtime_params=params) as session:
        return session.load_context().config_loader["catalog"]


@pytest.mark.usefixtures("elsewhere")
def test_relative_paths_start_at_the_root(project: Path) -> None:
    found = entries(project, raw_root="raw", image="../x.tif", backbone_source="weights", section="A")
    assert found["raw_section"]["filepath"] == str(project / "raw")
    assert found["slide"]["image"] == str(project / "../x.tif")
    assert entries(project, image="None")["slide"]["image"] == "None"  # there is no image
    assert found["other_sections"]["features"] == str(project / "data/04_feature")
    assert found["backbone"]["source"] == str(project / "weights")


def test_the_home_folder_is_found_everywhere(project: Path, elsewhere: Path) -> None:
    home = str(elsewhere / "home")
    found = entries(project, raw_root="~/raw", image="~/x.tif", backbone_source="~/weights", backbone="~/model")
    assert found["raw_section"]["filepath"] == f"{home}/raw"
    assert found["slide"]["image"] == f"{home}/x.tif"
    assert found["backbone"]["source"] == f"{home}/weights"
    assert found["backbone"]["name"] == f"{home}/model"
    assert entries(project, raw_root="~nobody-here/raw")["slide"]["filepath"] == str(project / "~nobody-here/raw")


@pytest.mark.usefixtures("elsewhere")
def test_absolute_paths_and_other_sources_stay(project: Path, tmp_path: Path) -> None:
    found = entries(project, raw_root=str(tmp_path), backbone_source="hf-hub:a/b", backbone="timm/vit_tiny")
    assert found["slide"]["filepath"] == str(tmp_path)
    assert found["backbone"]["source"] == "hf-hub:a/b"
    assert found["backbone"]["name"] == "timm/vit_tiny"
    assert found["backbone"]["backbones"]["uni"]["source"] == "hf-hub:MahmoodLab/uni"


@pytest.mark.usefixtures("elsewhere")
def test_a_backbone_may_be_a_folder_of_the_project(project: Path) -> None:
    folder = project / "data/models/mine"
    folder.mkdir(parents=True, exist_ok=True)
    assert entries(project, backbone="data/models/mine")["backbone"]["name"] == str(folder)
    assert entries(project, backbone="data")["backbone"]["name"] == "data"
    assert entries(project, backbone="uni")["backbone"]["name"] == "uni"


def test_the_project_is_the_root_also_where_conf_lies_elsewhere(project: Path, elsewhere: Path) -> None:
    shutil.copytree(project / "conf", elsewhere / "settings/conf")
    bootstrap_project(project)
    params = {"image": "x.tif"}
    with KedroSession.create(
        project, env="own", conf_source=str(elsewhere / "settings/conf"), runtime_params=params
    ) as session:
        assert session.load_context().config_loader["catalog"]["slide"]["image"] == str(project / "x.tif")


@pytest.mark.usefixtures("elsewhere")
def test_a_missing_image_is_named_by_its_whole_path(project: Path) -> None:
    bootstrap_project(project)
    params = {"section": "A", "raw_root": "raw", "image": "nowhere.tif"}
    with KedroSession.create(project, env="own", runtime_params=params) as session:
        with pytest.raises(Exception, match="nowhere") as caught:
            session.load_context().catalog.load("slide")
    assert str(project / "nowhere.tif") in str(InputError.within(caught.value))


def test_a_name_that_no_file_system_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf/base").mkdir(parents=True)
    (tmp_path / "conf/base/catalog.yml").write_text("slide: {image: '${runtime_params:image}'}")
    loader = ProjectConfigLoader(tmp_path / "conf", "base", {"image": f"a/{'x' * 300}.tif"}, base_env="base")
    with pytest.raises(InputError, match="more than 255 bytes"):
        loader["catalog"]


def _loaded(folder: Path, **gene_sets: object) -> dict[str, Any]:
    (folder / "conf/base").mkdir(parents=True)
    (folder / "conf/local").mkdir()
    (folder / "conf/base/parameters.yml").write_text(
        yaml.safe_dump({"evaluation": {"gene_sets": gene_sets}, "seed": 1})
    )
    return ProjectConfigLoader(str(folder / "conf"), **LIKE_KEDRO)["parameters"]


def test_a_gene_set_may_be_a_file_of_names(tmp_path: Path) -> None:
    (tmp_path / "tls genes.txt").write_text("# B and T cells\nMS4A1, CD79A\n1e3 # a number\nCD3E;007\n")
    found = _loaded(tmp_path, tls="tls genes.txt", pasted="CD3E CD3D", listed=["A", "B"])
    assert found["seed"] == 1
    assert found["evaluation"]["gene_sets"] == {
        "tls": ["MS4A1", "CD79A", "1e3", "CD3E", "007"],
        "pasted": "CD3E CD3D",
        "listed": ["A", "B"],
    }


@pytest.mark.parametrize("content", [None, b"# nothing\n", b"\xff\xfe\x00"])
def test_a_gene_set_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.csv \(evaluation\.gene_sets\.mine\).*Correct evaluation"):
        _loaded(tmp_path, mine="mine.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1: x\n", "the key 1 in"),
        (b"1.5: {a: 1}\n", "the key 1.5 in"),
        (b"section: \xff\n", "which cannot be read"),
        (b"~: x\n", "which cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["globals", "parameters"])
def test_what_is_no_setting_is_an_input_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    for folder in ("base", "local"):
        (tmp_path / "conf" / folder).mkdir(parents=True)
    (tmp_path / "conf/base/parameters.yml").write_text("seed: 0\n")
    (tmp_path / f"conf/base/{name}.yml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        ProjectConfigLoader(tmp_path / "conf", **LIKE_KEDRO)["parameters"]


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration that stands for that of a wheel, in a folder of hidden parts."""
    conf = tmp_path / ".venv" / "spamcaf" / "conf"
    for env, section in (("base", "simulated"), ("own", "packed"), ("local", "")):
        (conf / env).mkdir(parents=True)
        (conf / env / "globals.yml").write_text(yaml.safe_dump({"section": section} if section else {}))
    monkeypatch.setattr(config_loader, "PACKED", conf)
    return conf


@pytest.mark.parametrize("here", ["work", ".work"])
def test_an_environment_of_the_working_directory_replaces_one_of_the_wheel(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    folder = tmp_path / here
    for env in ("own", "mine", "base"):
        (folder / "conf" / env).mkdir(parents=True)
        (folder / "conf" / env / "globals.yml").write_text(f"section: {env} of the user")

    def section(env: str, conf: Path = packed) -> str:
        return ProjectConfigLoader(str(conf), env, **LIKE_KEDRO)["globals"]["section"]

    monkeypatch.chdir(tmp_path)
    assert section("own") == "packed"
    monkeypatch.chdir(folder)
    assert [section(env) for env in ("own", "mine", "local")] == ["own of the user", "mine of the user", "simulated"]
    assert section("own", shutil.copytree(packed, tmp_path / "another" / "conf")) == "packed"


def test_a_wheel_reads_data_beside_the_working_directory(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packed / "base" / "catalog.yml").write_text("x: {type: MemoryDataset, filepath: data/x}")
    monkeypatch.chdir(tmp_path)
    loader = ProjectConfigLoader(str(packed), "local", **LIKE_KEDRO)
    assert loader["catalog"]["x"]["filepath"] == str(tmp_path / "data/x")

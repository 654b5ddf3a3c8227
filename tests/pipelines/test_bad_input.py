"""Bad input ends in one short error: found, expected, next step; exit code not 0; nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

CASES = {
    "unknown group": ("--params", "splt.mask=1", "Did you mean 'split'?"),
    "unknown setting": ("--params", "split.maks=1", "Did you mean 'mask'?"),
    "out of range": ("--params", "panel.n_genes=1", "greater than or equal to 2"),
    "wrong type": ("--params", "fit.epochs=many", "fit.epochs = 'many'"),
    "settings that do not fit": ("--params", "network.width=65", "width should be a multiple of heads (4), found 65"),
    "no such section": ("--params", "section=nobody", "no section 'nobody'"),
    "section that leaves the folder": ("--params", "section=../up", "the section name '../up'"),
    "section name of other signs": ("--params", "section=...", "the section name '...'"),
    "section name that is YAML": ("--params", "section=*,split.mask=1", "the section name '*'"),
    "section name that is a number": ("--params", "section=1_1", "no section '1_1'"),
    "other section whose name is a number": (
        "--params",
        "other_sections=151674",
        "no section.h5ad of the other section '151674'",
    ),
    "model that leaves the folder": ("--params", "model=../up", "the model name '../up'"),
    "YAML that cannot be read": ("--params", "panel.method=*", "--params panel.method=*, which cannot be read"),
    "no such environment": ("--env", "her2", "Did you mean 'her2st'?"),
    "no such pipeline": ("--pipelines", "trainig", "Did you mean 'training'?"),
    "no such pipeline, in Kedro's older words": ("--pipeline", "trainig", "Did you mean 'training'?"),
    "no such backbone": ("--params", "backbone=nobody", "backbone 'nobody'"),
    "a backbone that is nearly one": ("--params", "backbone=uni3-h", "Did you mean 'uni2-h'?"),
    "no such folder of weights": ("--params", "backbone_source=/nowhere", "no weights in /nowhere"),
    "no access to the hub": ("--params", "backbone=uni", "backbone=efficientnet_lite0"),
}
IN_A_PROCESS = "no such section, in a process of its own"


@pytest.mark.parametrize("case", [*CASES, IN_A_PROCESS])
def test_one_short_error(kedro: Run, kedro_process: Run, case: str) -> None:
    option, value, expected = CASES.get(case, CASES["no such section"])
    done = (kedro_process if case == IN_A_PROCESS else kedro)("run", option, value)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    assert not done.stdout.strip(), "more than the refusal is printed"
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert expected in line
    assert len(line) < 900
    if option == "--params" and "*" not in value:
        assert line.endswith(f"All that a run needs is checked by `kedro doctor --env tiny --params {value}`.")


def test_pipeline_is_another_name_of_pipelines(kedro: Run, recwarn: pytest.WarningsRecorder) -> None:
    assert "nothing to download in this environment" in kedro("run", "--pipeline", "download").stderr
    assert not [each for each in recwarn if "--pipeline" in str(each.message)]
    assert kedro("run", "--pipeline", "download", "--pipelines", "training").returncode != 0


def test_missing_raw_data_are_named(kedro: Run, tmp_path: Path) -> None:
    for env in ("her2st", "dlpfc", "own", "bc1", "bc2", "mouse_brain"):
        done = kedro("run", "--params", f"raw_root={tmp_path}", env=env)
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith("Error: Found: ")
        assert str(tmp_path) in done.stderr


def test_nothing_is_written_for_a_refused_section(kedro: Run, project: Path) -> None:
    kedro("run", "--params", "section=nobody")
    assert not list((project / "data").rglob("nobody"))


@pytest.mark.parametrize("choice", ["backbone=uni", "backbone=nobody", "backbone_source=/nowhere"])
def test_a_missing_backbone_ends_the_run_before_anything_is_computed(kedro: Run, project: Path, choice: str) -> None:
    conf = project / "conf" / "early"
    if not conf.exists():
        shutil.copytree(project / "conf" / "tiny", conf)
        (conf / "catalog.yml").write_text(
            "section: {type: spamcaf.datasets.stored.AnnDataDataset, filepath: data/early}"
        )
    done = kedro("run", "--params", choice, env="early")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: Found: ")
    assert not (project / "data/early").exists()
    assert done.stdout.strip() == ""

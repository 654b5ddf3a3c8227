"""A pipeline alone takes stored results only if they are of its own settings, inputs and version; none are mixed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
DEFAULT = "simulated/default"

REFUSED = {
    "split.mask=4": ("training", "spot_split (split.mask=0, 4 in this run)", "ingestion"),
    "split.mask=4,panel.n_genes=50": ("training", "expression (panel.n_genes=60, 50 in this run)", "ingestion"),
    "split.protocol=block": (
        "evaluation",
        "(split.protocol=random, block in this run)",
        "ingestion,training,inference",
    ),
    "split.hidden_share=0.3": ("inference", "model, spot_split (split.hidden_share=0.5, 0.3 in", "ingestion,training"),
    "panel.n_genes=50": ("inference", "(panel.n_genes=60, 50 in this run)", "ingestion,training"),
    "panel.include=g1": ("training", 'expression (panel.include=[], ["g1"] in this run)', "ingestion"),
    "tiles.tile_um=200": ("training", "spot_features, spot_split (tiles.tile_um=112.0, 200.0 in", "ingestion,feature"),
    "tiles.views=2": ("inference", "(tiles.views=1, 2 in this run)", "ingestion,feature_extraction,training"),
    "compute.precision=bf16": ("training", "spot_features (compute.precision=float32, bf16", "feature_extraction"),
    "backbone=efficientnet_lite0": ("training", "spot_features (backbone=tiny, efficientnet_lite0 in", "feature_ex"),
    "section_checks.min_spots=10": ("feature_extraction", "(section_checks.min_spots=20, 10 in this run)", "ingestion"),
    "tissue.um_per_px=16": ("feature_extraction", "section, tissue (tissue.um_per_px=8.0, 16.0 in", "ingestion"),
    "grid.subdivide=3": ("inference", "grid, grid_features (grid.subdivide=2, 3 in", "ingestion,feature_extraction"),
    "fit.use_network=false": ("inference", "full_model, model (fit.use_network=true, false in", "training"),
    "fit.epochs=2": ("evaluation", "super_resolved, training_curves (fit.epochs=1, 2 in", "training,inference"),
    "fit.model=released": ("training", "spot_features (fit.model=spamcaf, released in", "feature_extraction"),
    "network.width=32": ("inference", "full_model, model (network.width=64, 32 in", "training"),
    "seed=5": ("inference", "(seed=1234, 5 in this run)", "ingestion,training"),
    "reference=data/other.csv": ("inference", "full_model, model (reference={}, {", "training"),
    "other_sections=S2": ("training", "expression (other_sections={}, {", "ingestion"),
    "inference.n_draws=2": ("evaluation", "recovered, super_resolved (inference.n_draws=0, 2 in", "inference"),
}
"""By the options of a pipeline alone, after a run without them: the pipeline, what differs, which ones to run again."""
KEPT = "compute.threads=2,tiles.batch=8,report.n_genes=1,split.mask=0,panel.n_genes=60"


@pytest.fixture(scope="module")
def folder(copy_finished: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished project, and a reference and another section that it did not use."""
    folder = copy_finished(tmp_path_factory.mktemp("changes") / "project")
    for layer in ("02_intermediate", "04_feature"):
        shutil.copytree(folder / "data" / layer / "simulated", folder / "data" / layer / "S2")
    (folder / "data/other.csv").write_text("spot,g1,g2\ns1,3,4\ns2,5,6\n")
    return folder


def files(folder: Path) -> dict[str, int]:
    """Return when each result was written, without locks and what is inside a SpatialData folder."""
    left_out = {"simulated.zarr", ".locks"}
    found = [p for p in (folder / "data").rglob("*") if p.is_file() and left_out.isdisjoint(p.parts)]
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in found}


@pytest.mark.parametrize("params", REFUSED)
def test_a_change_is_refused_and_named(kedro: Run, folder: Path, params: str) -> None:
    pipeline, found, again = REFUSED[params]
    before = files(folder)
    done = kedro("run", "--pipelines", pipeline, "--params", params, folder=folder)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Found: stored results that do not fit this run: ")
    assert found in last
    assert f"kedro run --pipelines {again}" in last
    assert files(folder) == before


def test_what_changes_no_stored_result_is_not_refused(kedro: Run, finished: Path) -> None:
    words = ("--nodes", "evaluation.plot_maps,training.plot_training", "--params", f"{KEPT},report.genes=nowhere")
    done = kedro("run", *words, folder=finished)
    assert done.returncode == 0, done.stderr
    assert "not shown: nowhere" in re.sub(r"\s+", " ", done.stdout)


def test_new_curves_do_not_stand_beside_old_scores(kedro: Run, finished: Path) -> None:
    assert kedro("run", "--pipelines", "training", "--params", "fit.epochs=2", folder=finished).returncode == 0
    for params, found, again in (
        ("fit.epochs=1", "training_curves (fit.epochs=2, 1 in this run)", "training"),
        ("fit.epochs=2", "recovered, super_resolved (fit.epochs=1, 2 in this run)", "inference"),
    ):
        done = kedro("run", "--pipelines", "evaluation", "--params", params, folder=finished)
        assert done.returncode == 1 and found in done.stderr and f"--pipelines {again};" in done.stderr
    done = kedro("run", "--pipelines", "inference,evaluation", "--params", "fit.epochs=2", folder=finished)
    assert done.returncode == 0, done.stderr
    record = json.loads((finished / f"data/08_reporting/{DEFAULT}/.provenance/report.html.json").read_text())
    assert record["made_with"]["fit.epochs"] == 2


def test_missing_outputs_alone_are_not_made_beside_others_of_other_settings(kedro: Run, folder: Path) -> None:
    done = kedro("run", "--only-missing-outputs", "--params", "split.mask=3", folder=folder)
    assert done.returncode == 1 and "split.mask=0, 3 in this run" in done.stderr


@pytest.mark.parametrize("change", ["version", "record", "layout"])
def test_results_of_an_earlier_version_are_refused_in_one_sentence(kedro: Run, finished: Path, change: str) -> None:
    split = finished / f"data/03_primary/{DEFAULT}/spot_split.csv"
    record = split.parent / ".provenance" / f"{split.name}.json"
    expected = "spot_split (package_version=0.0.1, "
    if change == "version":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"package_version": "0.0.1"}))
    elif change == "record":
        record.unlink()
        expected = "spot_split (without a record of what made it"
    else:
        split.rename(split.parents[1] / split.name)
        expected = "which an earlier version stored"
    done = kedro("run", "--pipelines", "training", folder=finished)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Found: ") and expected in last


def test_runs_lie_beside_each_other_and_share_what_no_setting_of_theirs_changes(kedro: Run, finished: Path) -> None:
    before = files(finished)
    words = ("--params", "run=block,split.protocol=block,split.n_blocks=2,fit.use_network=false")
    done = kedro("run", *words, folder=finished)
    assert done.returncode == 0, done.stderr
    after = files(finished)
    others = ("download.log", "download_report.json")  # of other pipelines
    of_run = {
        p.replace("/default/", "/block/") for p in before if "/simulated/default/" in p and not p.endswith(others)
    }
    assert set(after) == set(before) | of_run
    same = [path for path in before if "/default/" in path or ("/04_feature/" in path and "provenance" not in path)]
    assert [path for path in same if after[path] != before[path]] == []
    layer = finished / "data/08_reporting/simulated"
    protocols = {run: json.loads((layer / run / "scores.json").read_text())["protocol"] for run in ("default", "block")}
    assert protocols == {"default": "random", "block": "block"}


@pytest.mark.parametrize("name", ["../up", "a.b", "", "a/b", "x" * 300])
def test_a_run_that_cannot_name_a_folder_is_refused(kedro: Run, project: Path, name: str) -> None:
    done = kedro("run", "--params", f"run={name}")
    assert done.returncode == 1 and "the run name" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("node", "params", "named"),
    [
        ("training.plot_training", "report.n_genes=3", "report.n_genes: no effect on training"),
        ("evaluation.join_scores", "transfer.mpp=1,report.n_genes=3", "transfer.mpp: no effect on evaluation"),
        ("ingestion.lay_grid", "model=C2,fit.epochs=3", "fit.epochs, model: no effect on ingestion"),
        ("training.plot_training", "sections=C2,masks=3", "masks, sections: no effect on training"),
        ("training.plot_training", "split.mask=0,fit.epochs=1,section=simulated,backbone=tiny", None),
    ],
)
def test_settings_without_effect_are_warned_of(
    kedro: Run, finished: Path, node: str, params: str, named: str | None
) -> None:
    pipeline = node.split(".", maxsplit=1)[0]
    done = kedro("run", "--pipelines", pipeline, "--nodes", node, "--params", params, folder=finished)
    assert done.returncode == 0, done.stderr
    assert ("no effect" in done.stdout + done.stderr) == (named is not None)
    assert named is None or named in done.stdout + done.stderr

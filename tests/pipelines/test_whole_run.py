"""One command does everything, each pipeline works alone on what others stored, and the notebook reads it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from spamcaf.datasets.model import read_tensors
from spamcaf.names import DISPLAY_NAMES, Model
from spamcaf.pipeline_registry import CHAIN

Run = Callable[..., subprocess.CompletedProcess[str]]
REPORTING = "data/08_reporting/simulated/default"
OUTPUT = "data/07_model_output/simulated/default"
MODELS = {"spamcaf", "program_gp", "gene_mean", "idw", "kriging", "ridge", "kriging_ridge_programs", "depth_only"}
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
METRICS = {"pcc_mean", "pcc_median", "pcc_top50", "spearman_mean", "mse", "mae"}

pytestmark = pytest.mark.usefixtures("first_run")


def test_prints_the_table_and_the_place_of_the_report_last(
    first_run: subprocess.CompletedProcess[str], project: Path
) -> None:
    lines = [line for line in first_run.stdout.splitlines() if line.strip()]
    score, times = (max(i for i, line in enumerate(lines) if text in line) for text in ("mean PCC", "the time went"))
    assert score < times < len(lines) - 5
    places = [REPORTING + "/report.html", REPORTING + "/run.log", OUTPUT + "/super_resolved.h5ad"]
    assert [line.split(": ")[-1] for line in lines[-1:-4:-1]] == [str(project / place) for place in places]
    scores = json.loads((project / REPORTING / "scores.json").read_text())
    ours = f"score: PCC {scores['models']['spamcaf']['pcc_mean']:.3f} at {scores['n_hidden']} hidden spots"
    assert ours in lines[-4] and "best baseline" in lines[-4]
    assert "WARN" not in first_run.stdout and not first_run.stderr
    assert all(any(line.startswith(f"{DISPLAY_NAMES[model]} ") for line in lines) for model in MODELS)


def test_says_first_what_is_run_and_each_step_once_also_in_a_file(
    first_run: subprocess.CompletedProcess[str], project: Path
) -> None:
    lines = first_run.stdout.splitlines()
    assert re.search(r"spamcaf \S+, kedro \S+, torch", lines[0])
    assert "section simulated, run default, environment tiny; backbone tiny" in lines[1]
    assert "settings: the defaults, but " in lines[2] and "panel.n_genes=60" in lines[2]
    steps = [int(step) for step in re.findall(r"step (\d+) of 25: ", first_run.stdout)]
    assert steps == list(range(1, 26))
    log = (project / REPORTING / "run.log").read_text()
    for line in (*lines[:3], *lines[-3:]):
        assert line.split(None, 2)[2] in log
    assert "\n  split.hidden_share: 0.5\n" in log and "\n  compute.threads: " in log


def test_scores_are_of_hidden_spots_only(project: Path) -> None:
    scores = json.loads((project / REPORTING / "scores.json").read_text())
    split = pd.read_csv(project / "data/03_primary/simulated/default/spot_split.csv")
    assert scores["section"] == "simulated"
    assert scores["model"] == "spamcaf"
    assert scores["protocol"] == "random"
    assert scores["n_hidden"] == (split["part"] == "hidden").sum()
    assert scores["n_train"] == (split["part"] == "train").sum()
    assert scores["n_genes"] == 60
    assert len(split) < 120, "the environment's small simulation was not used"
    assert set(scores["models"]) == MODELS
    assert all(set(row) >= METRICS for row in scores["models"].values())
    assert set(scores["super_resolution"]["models"]) == MODELS | {"nearest_spot"}


def test_what_the_fit_decided_is_stored_and_its_checkpoints_are_gone(project: Path) -> None:
    programs = pd.read_csv(project / REPORTING / "program_log.csv")
    shares = programs[["signal_fraction", "within_section_network_weight", "new_section_network_weight"]]
    assert len(programs) > 0 and shares.ge(0).all(axis=None) and shares.le(1).all(axis=None)
    assert {path.name for path in (project / "data/06_models/simulated/default").iterdir()} == {
        ".provenance",
        "model.safetensors",
        "full_model.safetensors",
    }


def test_scores_can_be_computed_again_from_what_is_stored(project: Path) -> None:
    recovered = anndata.read_h5ad(project / OUTPUT / "recovered.h5ad")
    truth = anndata.read_h5ad(project / "data/03_primary/simulated/default/expression.h5ad")[
        recovered.obs["parent_barcode"]
    ]
    a, b = (x - x.mean(axis=0) for x in (np.asarray(recovered.X, float), np.asarray(truth.X, float)))
    with np.errstate(invalid="ignore"):
        pcc = np.nan_to_num((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)))
    scores = json.loads((project / REPORTING / "scores.json").read_text())
    assert scores["models"]["spamcaf"]["pcc_mean"] == pytest.approx(pcc.mean(), abs=1e-4)


def test_prediction_keeps_the_contract(project: Path) -> None:
    prediction = anndata.read_h5ad(project / OUTPUT / "super_resolved.h5ad")
    grid = pd.read_csv(project / "data/03_primary/simulated/grid.csv")
    assert prediction.obs_names.tolist() == grid["site_id"].tolist()
    assert prediction.obs_names.is_unique
    assert all(re.fullmatch(r"[ACGT]{16}-1_s[0-6]", name) for name in prediction.obs_names)
    assert prediction.X.dtype == np.float32
    assert np.isfinite(prediction.X).all()
    assert (prediction.layers["sd"] > 0).all()
    record = prediction.uns["spamcaf"]
    assert {"schema_version", "package_version", "configuration", "seed", "backbone", "slide"} <= set(record)
    assert record["view"]["precision"] == "float32"


def test_predictions_at_hidden_spots_line_up_with_the_rest(project: Path) -> None:
    recovered = anndata.read_h5ad(project / OUTPUT / "recovered.h5ad")
    baselines = anndata.read_h5ad(project / OUTPUT / "baseline_predictions.h5ad")
    expression = anndata.read_h5ad(project / "data/03_primary/simulated/default/expression.h5ad")
    assert recovered.obs_names.tolist() == recovered.obs["parent_barcode"].tolist() == baselines.obs_names.tolist()
    hidden = expression[recovered.obs_names]
    for measured in (recovered.layers["measured"], baselines.X):
        np.testing.assert_array_equal(measured, hidden.X)
    np.testing.assert_allclose(baselines.obsm["spatial"], hidden.obsm["spatial"])


def test_programs_say_what_was_learned(project: Path) -> None:
    programs = anndata.read_h5ad(project / OUTPUT / "programs.h5ad")
    map_ = anndata.read_h5ad(project / OUTPUT / "super_resolved.h5ad")
    assert programs.obs_names.equals(map_.obs_names)
    assert programs.var_names[:2].tolist() == ["log_depth", "program_1"]
    loadings = programs.varm["loadings"]
    assert list(loadings.columns) == list(map_.var_names)
    decoded = np.asarray(programs.X[:, 1:], float) @ loadings.to_numpy()[1:]
    # what programs and depth do not tell are the means, the bend of the curve of depth, and genes' own processes
    explained = decoded + np.outer(programs.X[:, 0], loadings.to_numpy()[0])
    similar = [np.corrcoef(a, b)[0, 1] for a, b in zip(explained.T, np.asarray(map_.X, float).T, strict=True)]
    assert np.median(similar) > 0.9


def test_every_result_is_there(project: Path) -> None:
    for name in ("maps.png", "training_curves.png", "../section_overlay.png", "report.html", "gene_scores.csv"):
        assert (project / REPORTING / name).stat().st_size > 1000
    assert (project / OUTPUT / "simulated.zarr" / "zarr.json").is_file()
    detection = json.loads(gzip.decompress((project / OUTPUT / "super_resolved.geojson.gz").read_bytes()))["features"][
        0
    ]
    assert len(detection["properties"]["measurements"]) == 4  # value and deviation of each of two genes
    assert not list((project / "data").rglob("*.tmp*"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(project: Path, path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(project)}})
    client.execute(env={**os.environ, "KEDRO_ENV": "tiny"})
    assert not any(cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells)


def test_each_pipeline_works_alone_and_computes_the_same(
    kedro: Run, kedro_process: Run, project: Path, finished: Path
) -> None:
    both = (finished, project)
    chunks = sorted((finished / "data/04_feature/simulated").rglob("c.*"))
    written = [path.stat().st_mtime_ns for path in chunks]
    for pipeline in CHAIN:
        run = kedro_process if pipeline == "training" else kedro
        done = run("run", "--pipeline", pipeline, folder=finished)
        assert done.returncode == 0, done.stdout + done.stderr
    assert [path.stat().st_mtime_ns for path in chunks] == written, "stored features were computed again"
    for name in ("model", "full_model"):
        again, first = (
            read_tensors(folder / f"data/06_models/simulated/default/{name}.safetensors")[0] for folder in both
        )
        assert again.keys() == first.keys()
        for tensor in first:
            np.testing.assert_array_equal(again[tensor], first[tensor], err_msg=tensor)
    for name in ("recovered", "super_resolved"):
        again, first = (anndata.read_h5ad(folder / OUTPUT / f"{name}.h5ad").X for folder in both)
        np.testing.assert_array_equal(again, first)


def test_a_killed_run_goes_on_where_it_stopped(kedro: Run, finished: Path) -> None:
    store = finished / "data/04_feature/simulated"
    whole = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    shutil.rmtree(store)
    words = ("run", "--pipelines", "feature_extraction")
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", *words, "--env", "tiny"],
        cwd=finished,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(store.rglob("ids/c.*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(store.rglob("ids/c.*"))) < len([path for path in whole if path.match("ids/c.*")])
    assert kedro(*words, folder=finished).returncode == 0
    again = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert again == whole


def test_a_model_of_another_split_is_refused(kedro: Run, finished: Path) -> None:
    words = ("run", "--pipelines", "ingestion", "--params", "split.mask=1")
    assert kedro(*words, folder=finished).returncode == 0
    for mask, again in (("0", "--pipelines ingestion"), ("1", "--pipelines training")):
        done = kedro("run", "--pipelines", "inference", "--params", f"split.mask={mask}", folder=finished)
        assert done.returncode == 1
        assert again in done.stderr


def test_features_of_another_grid_are_refused(kedro: Run, finished: Path) -> None:
    """With k = 2 after k = 3 every site's name has features, but of another place."""
    grid, features = "ingestion.lay_grid", "feature_extraction.embed_grid"
    finer = ("--nodes", f"{grid},{features}", "--params", "grid.subdivide=3")
    assert kedro("run", *finer, folder=finished).returncode == 0
    assert kedro("run", "--nodes", grid, folder=finished).returncode == 0
    done = kedro("run", "--pipelines", "inference", folder=finished)
    assert done.returncode == 1
    assert "grid_features (grid.subdivide=3, 2 in this run)" in done.stderr


def test_the_simulated_section_reads_back_as_an_own_section(kedro: Run, finished: Path) -> None:
    log, before = finished / REPORTING / "run.log", (finished / REPORTING / "run.log").read_text()
    done = kedro("run", "--pipelines", "simulation", folder=finished)
    assert done.returncode == 0
    assert f"written: {finished / 'data/01_raw/simulated'}" in done.stdout.splitlines()[-2]
    assert (log.read_text(), log.with_name("simulation.log").is_file()) == (before, True)
    params = "section=simulated,raw_root=data/01_raw,panel.n_genes=60"
    own = kedro("run", "--pipelines", "ingestion", "--params", params, env="own", folder=finished)
    assert own.returncode == 0, own.stdout + own.stderr
    report = json.loads((finished / REPORTING / "../section_report.json").read_text())
    assert report["n_genes"] == 300
    assert report["mpp"] == pytest.approx(2.0, rel=0.01)


def test_models_have_names() -> None:
    assert {model.value for model in Model} > MODELS


def test_a_grid_of_the_spots_alone_has_no_scores_between_them(kedro: Run, finished: Path) -> None:
    words = ("--from-nodes", "ingestion.lay_grid", "--params", "grid.subdivide=1")
    done = kedro("run", *words, folder=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "super_resolution" not in json.loads((finished / REPORTING / "scores.json").read_text())

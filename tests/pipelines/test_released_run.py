"""The replica of the released network goes through the same pipelines, in rows of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from spamcaf.reporting.prediction import named_layers

Run = Callable[..., subprocess.CompletedProcess[str]]
WORDS = ("--params", "fit.model=released,released.epochs=2")
REPORTING, OUTPUT = "data/08_reporting/simulated/default", "data/07_model_output/simulated/default"
BASELINES = {"gene_mean", "idw", "kriging", "ridge", "kriging_ridge_programs", "depth_only"}


@pytest.fixture(scope="module")
def folder(copy_finished: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose section is checked and split, with features that lack the whole window."""
    return copy_finished(tmp_path_factory.mktemp("released") / "project")


@pytest.fixture(scope="module")
def released_run(kedro: Run, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run everything that the choice of the model changes."""
    done = kedro("run", "--pipelines", "feature_extraction,training,inference,evaluation", *WORDS, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def scores(released_run: subprocess.CompletedProcess[str], folder: Path) -> dict:
    return json.loads((folder / REPORTING / "scores.json").read_text())


def test_its_row_is_released_and_nothing_else_is_ours(scores: dict) -> None:
    assert set(scores["models"]) == BASELINES | {"released"}
    assert set(scores["super_resolution"]["models"]) == BASELINES | {"released", "nearest_spot"}
    assert scores["model"] == "released"
    assert scores["coverage_90"] is None
    assert scores["verdict"].startswith("Released network (replica) ")


def test_the_table_is_printed_last(released_run: subprocess.CompletedProcess[str]) -> None:
    lines = [line for line in released_run.stdout.splitlines() if line.strip()]
    steps = [i for i, line in enumerate(lines) if "step " in line and "write report" not in line]
    verdict = max(i for i, line in enumerate(lines) if "mean PCC" in line)
    assert verdict > steps[-4] and "report: " in lines[-1]  # maps and times may stand between
    assert any(line.startswith("Released network (replica) ") for line in lines[:-1])


@pytest.mark.usefixtures("released_run")
def test_predictions_are_means_without_a_deviation(folder: Path) -> None:
    for name in ("recovered", "super_resolved"):
        prediction = anndata.read_h5ad(folder / OUTPUT / f"{name}.h5ad")
        assert list(named_layers(prediction)) == ["measured"] * (name == "recovered")
        assert np.isfinite(prediction.X).all() and prediction.X.min() >= 0
        assert prediction.uns["spamcaf"]["model"] == "released"


@pytest.mark.usefixtures("released_run")
def test_the_log_and_the_report_are_there(folder: Path) -> None:
    reporting = folder / REPORTING
    assert pd.read_csv(reporting / "training_log.csv").columns.tolist() == ["fold", "epoch", "loss"]
    assert len(pd.read_csv(reporting / "program_log.csv")) == 0
    assert (reporting / "training_curves.png").stat().st_size > 1000
    assert "Released network (replica)" in (reporting / "report.html").read_text()


@pytest.mark.usefixtures("released_run")
def test_stored_features_without_the_whole_window_are_not_used(kedro: Run, project: Path, folder: Path) -> None:
    without, store = (root / "data/04_feature/simulated" for root in (project, folder))
    chunks, chunks_without = ({path.relative_to(root) for path in root.rglob("c.*")} for root in (store, without))
    assert chunks and chunks_without and not chunks & chunks_without
    shutil.rmtree(store)
    shutil.copytree(without, store)
    done = kedro("run", "--pipelines", "inference", *WORDS, folder=folder)
    assert done.returncode == 1
    assert "grid_features, spot_features (fit.model=spamcaf, released in this run)" in done.stderr
    assert "kedro run --pipelines feature_extraction" in done.stderr

"""Runs of an environment that asks for it are tracked with MLflow; all others know nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from spamcaf import tracking
from spamcaf.datasets.stored import AtomicDataset
from spamcaf.errors import InputError
from spamcaf.tracking import Tracking, metrics_of

SCORES: dict[str, Any] = {
    "models": {"spamcaf": {"pcc_mean": 0.25, "pcc_top50": None}},
    "super_resolution": {"models": {"spamcaf": {"pcc_mean": 0.5}}},
}
STORE = {"tracking_uri": "sqlite:///data/mlflow/mlflow.db", "experiment": "mine"}
WRITING = Pipeline([Node(lambda: 1, None, name, name=name) for name in ("scores", "report")])


def started(root: Path, entry: object = None, **parameters: Any) -> Tracking:
    globals_ = {"section": "S1", "run": "r", "backbone": "uni", "mlflow": entry}
    loader = {"globals": globals_, "parameters": parameters}
    hooks = Tracking()
    hooks.after_context_created(SimpleNamespace(config_loader=loader, project_path=root))  # type: ignore[arg-type]
    hooks.before_pipeline_run()
    return hooks


@pytest.fixture
def catalog(tmp_path: Path) -> DataCatalog:
    page = AtomicDataset(filepath=str(tmp_path / "out/report.html"), dataset={"type": "text.TextDataset"})
    page.save("a page")
    return DataCatalog({"scores": MemoryDataset(SCORES), "report": page})


def test_other_runs_neither_import_it_nor_write(
    catalog: DataCatalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # an import raises ImportError
    before = set(tmp_path.rglob("*"))
    hooks = started(tmp_path)
    hooks.after_pipeline_run(WRITING, catalog)
    hooks.before_pipeline_run()
    hooks.on_pipeline_error(WRITING, catalog)
    assert set(tmp_path.rglob("*")) == before
    assert not caplog.messages


def test_a_whole_run_without_tracking_does_not_import_it(
    first_run: subprocess.CompletedProcess[str], project: Path
) -> None:
    assert "mlflow" not in first_run.stdout + first_run.stderr
    assert not (project / "data/mlflow").exists() and not (project / "mlruns").exists()


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="experimnt"):
        started(tmp_path, {"experimnt": "mine"})


def test_a_store_that_cannot_be_reached_is_a_warning(
    catalog: DataCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> str:
        raise OSError("no such server")

    monkeypatch.setattr(tracking, "_track", fail)
    started(tmp_path, STORE).after_pipeline_run(WRITING, catalog)
    assert caplog.messages == ["this run is not tracked: OSError: no such server"]


def test_scores_have_dotted_names_and_those_without_a_value_are_left_out() -> None:
    assert metrics_of(SCORES) == {"spamcaf.pcc_mean": 0.25, "between_spots.spamcaf.pcc_mean": 0.5}


def test_settings_scores_and_report_are_stored(catalog: DataCatalog, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    hooks = started(tmp_path, STORE, split={"mask": 3})
    hooks.before_pipeline_run()  # one inside it
    hooks.after_pipeline_run(WRITING, catalog)
    hooks.after_pipeline_run(WRITING, catalog)
    hooks.before_pipeline_run()
    hooks.on_pipeline_error(WRITING, catalog)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/data/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    failed, done = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    assert (done.info.status, failed.info.status, done.info.run_name) == ("FINISHED", "FAILED", "S1/r")
    assert done.data.params["split.mask"] == "3" and done.data.params["fit.epochs"] == "40"
    assert done.data.params["backbone"] == "uni"
    assert done.data.metrics == metrics_of(SCORES) and not failed.data.metrics
    (report,) = client.list_artifacts(done.info.run_id)
    assert (tmp_path / "data/mlflow/artifacts" / done.info.run_id / "artifacts" / report.path).read_text() == "a page"
    assert not (tmp_path / "mlruns").exists()


def test_the_environment_tracks_a_run_of_the_command(
    kedro: Callable[..., subprocess.CompletedProcess[str]], finished: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    (finished / "conf/mlflow/globals.yml").rename(finished / "conf/tiny/mlflow_globals.yml")
    tiny = finished / "conf/tiny"
    tracked = (tiny / "mlflow_globals.yml").read_text()
    (tiny / "mlflow_globals.yml").unlink()
    (tiny / "globals.yml").write_text((tiny / "globals.yml").read_text() + tracked)
    done = kedro("run", "--from-nodes", "evaluation.join_scores", folder=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout and not done.stderr
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{finished}/data/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("spamcaf").experiment_id])
    scores = json.loads((finished / "data/08_reporting/simulated/default/scores.json").read_text())
    assert run.data.metrics["spamcaf.pcc_mean"] == pytest.approx(scores["models"]["spamcaf"]["pcc_mean"])
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"report.html", "scores.json"}

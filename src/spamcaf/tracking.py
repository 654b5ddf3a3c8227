"""Tracking with MLflow, for environments whose globals.yml asks for it: settings, scores, and the report of a run."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from pydantic import BaseModel, ConfigDict, Field

from spamcaf.datasets.stored import PathDataset, validated
from spamcaf.errors import first_line
from spamcaf.origins import settings_in
from spamcaf.parameters import RunSettings
from spamcaf.run_log import CHOICES, SCORES

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

KEPT = ("report", "scores", "gene_scores", "maps", "benchmark", "benchmark_report")
SQLITE = re.compile(r"sqlite:///(?!/)(.*)")  # of a relative path
MAX_BATCH, MAX_VALUE = 100, 6000  # MLflow's limits: entries of a call, characters of a value


class TrackingSettings(BaseModel):
    """`mlflow` of globals.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tracking_uri: str = Field("sqlite:///data/mlflow/mlflow.db", description="database or server")
    experiment: str = Field("spamcaf", min_length=1, description="name of the experiment")


class Tracking:
    """Hands a run to MLflow when it has ended, well or not; without `mlflow` in globals.yml it does nothing.

    MLflow is imported for tracked runs alone, and a run inside another is not tracked. What MLflow cannot take is a
    warning: the results are stored all the same.
    """

    def __init__(self) -> None:
        self._settings: TrackingSettings | None = None
        self._root, self._depth = Path(), 0
        self._chosen: dict[str, Any] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Learn whether the run is tracked."""
        if self._depth:
            return
        loader: Any = context.config_loader
        self._root, self._chosen = Path(context.project_path), {**loader["globals"], **loader["parameters"]}
        entry = self._chosen.get("mlflow")
        self._settings = validated(TrackingSettings, entry, "`mlflow`") if entry else None

    @hook_impl(trylast=True)  # nothing refused it
    def before_pipeline_run(self) -> None:
        """Count a run inside another."""
        self._depth += 1

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Hand over settings, scores and files."""
        self._end(pipeline, catalog, "FINISHED")

    @hook_impl
    def on_pipeline_error(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Hand over the settings of a run that failed."""
        self._end(pipeline, catalog, "FAILED")

    def _end(self, pipeline: Pipeline, catalog: CatalogProtocol, status: str) -> None:
        self._depth -= 1
        if self._depth or self._settings is None:
            return
        written = pipeline.all_outputs() if status == "FINISHED" else set()
        metrics = metrics_of(catalog.load(SCORES)) if SCORES in written else {}
        paths = [each.path for name in KEPT if isinstance(each := _held(catalog, name, written), PathDataset)]
        settings = settings_in({k: v for k, v in self._chosen.items() if k in RunSettings.model_fields})
        names = {name: self._chosen.get(name) for name in ("section", "run", *CHOICES)}
        try:
            run = _track(self._settings, self._root, {**names, **settings}, metrics, paths, status)
        except Exception as error:  # of MLflow, its database or its server: of many types
            logger.warning("this run is not tracked: %s: %s", type(error).__name__, first_line(error))
        else:
            logger.info(
                "tracked: run %s of experiment %s, %s", run, self._settings.experiment, self._settings.tracking_uri
            )


def metrics_of(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of each model, at hidden spots and, under `between_spots`, between them, by dotted name."""
    between = scores.get("super_resolution", {}).get("models", {})
    groups = [("", scores["models"]), ("between_spots.", between)]
    found = {
        f"{before}{model}.{metric}": value
        for before, models in groups
        for model, values in models.items()
        for metric, value in values.items()
    }
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _held(catalog: CatalogProtocol, name: str, written: set[str]) -> object:
    return catalog.get(name) if name in written and name in catalog else None


def _track(
    settings: TrackingSettings,
    root: Path,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    paths: Iterable[Path],
    status: str,
) -> str:
    """Store a run, and return its id."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # tells each table of a new database
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    uri, local = settings.tracking_uri, SQLITE.fullmatch(settings.tracking_uri)
    place = None
    if local:
        database = root / local[1]
        database.parent.mkdir(parents=True, exist_ok=True)
        uri, place = f"sqlite:///{database}", (database.parent / "artifacts").as_uri()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(settings.experiment)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(settings.experiment, place)
    run = client.create_run(experiment_id, run_name=f"{params['section']}/{params['run']}")
    run_id: str = run.info.run_id
    entries = [Param(name, str(value)[:MAX_VALUE]) for name, value in params.items() if value is not None]
    for start in range(0, len(entries), MAX_BATCH):
        client.log_batch(run_id, params=entries[start : start + MAX_BATCH])
    now = int(time.time() * 1000)
    scored = [Metric(name, value, now, 0) for name, value in metrics.items()]
    for start in range(0, len(scored), MAX_BATCH):
        client.log_batch(run_id, metrics=scored[start : start + MAX_BATCH])
    for path in paths:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, status)
    return run_id

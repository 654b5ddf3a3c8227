"""What is said of a run: settings and versions first, a line per step, the score and places last; all in a file too."""

from __future__ import annotations

import logging
import platform
import traceback
from collections import deque
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from spamcaf.datasets.stored import PathDataset
from spamcaf.errors import DEFAULT_ENVS, InputError
from spamcaf.names import Metric, display_name
from spamcaf.origins import PARAMETERS, settings_in
from spamcaf.provenance import without_home
from spamcaf.run_times import RUN_TIMES, NodeStarts

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)

REPORTS, SCORES, MAP = ("report", "benchmark_report"), "scores", "super_resolved"
PACKAGES = ("spamcaf", "kedro", "torch", "anndata", "numpy")
CHOICES = ("backbone", "raw_root", "other_sections", "reference", "model", "image", "bin_um", "backbone_source")
MAX_EARLY = 200  # lines before the file is known
LINE = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _Lines(logging.Formatter):
    """Lines of the file: no path names the user's home folder."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return str(without_home(super().format(record)))


class _Early(logging.Handler):
    """Keeps the last lines until there is a file."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=MAX_EARLY)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.records.append(record)


@dataclass
class _Running:
    n_steps: int
    done: set[str]
    file: logging.FileHandler | None


class RunLog(NodeStarts):
    """Says what a run is and does, on the console and in `run.log` beside its report.

    A run of some pipelines has a file of their names. The file is of one run, from the line on that it opens; that of a
    killed run stays until the next one. Of a run inside another only what it logs itself is said.
    """

    def __init__(self) -> None:
        self._early = _Early()
        self._running: list[_Running] = []
        self._chosen: dict[str, Any] = {}

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Keep lines from here on, and what was chosen."""
        if not self._running:
            self._early.records.clear()
            logging.getLogger().addHandler(self._early)
            loader: Any = context.config_loader
            self._chosen = {**loader["globals"], **loader["parameters"], "env": context.env}

    @hook_impl(trylast=True)  # nothing refused it
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Open the file; state versions and settings."""
        running = _Running(len(pipeline.nodes), set(), None)
        self._running.append(running)
        if len(self._running) > 1:
            return
        logging.getLogger().removeHandler(self._early)
        running.file = _opened(_place(run_params.get("pipeline_names"), pipeline, catalog))
        for record in self._early.records:
            if running.file:
                running.file.handle(record)
        given = catalog.load(PARAMETERS) if PARAMETERS in catalog else {}
        settings, defaults = (settings_in(each, with_neutral=True) for each in (given, {}))
        logger.info(_versions())
        logger.info(_choices(self._chosen))
        changed = [f"{name}={value}" for name, value in settings.items() if value != defaults.get(name)]
        logger.info("settings: %s", f"the defaults, but {', '.join(changed)}" if changed else "the defaults")
        if running.file:
            listed = "\n".join(f"  {name}: {value}" for name, value in settings.items())
            running.file.handle(
                logger.makeRecord(logger.name, logging.INFO, "", 0, "all settings\n%s", (listed,), None)
            )

    @hook_impl(trylast=True)
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """State the score, and where map, report or other results lie."""
        running = self._running.pop()
        if self._running:
            return
        for line in last_lines(pipeline, catalog, Path(running.file.baseFilename) if running.file else None):
            logger.info(line)
        _close(running.file)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Write the error into the file; on the console it stands where the command ends."""
        running = self._running.pop()
        if running.file:
            ours = InputError.within(error)
            text = str(ours) if ours else "".join(traceback.format_exception(error))
            running.file.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None))
            _close(running.file)

    def _begin(self, node: Node) -> None:
        if len(self._running) == 1 and node.name not in (running := self._running[0]).done:
            running.done.add(node.name)
            logger.info("step %d of %d: %s", len(running.done), running.n_steps, node.short_name.replace("_", " "))


def last_lines(pipeline: Pipeline, catalog: CatalogProtocol, log: Path | None = None) -> list[str]:
    """Return what a run ends with: score, map, log and report, or each result that no other node of it takes."""
    written = pipeline.all_outputs()
    paths = {name: _path(catalog, name) for name in sorted(written)}
    reports = [f"report: {paths[name]}" for name in REPORTS if paths.get(name)]
    lines = [_score(catalog.load(SCORES))] if SCORES in written and reports else []
    if reports:
        lines += [f"map: {paths[MAP]}"] if paths.get(MAP) else []
    else:
        ends = pipeline.outputs() & written or written
        lines += [f"written: {path}" for name, path in paths.items() if path and name in ends]
    return [*lines, *([f"log: {log}"] if log else []), *reports]


def _score(scores: dict[str, Any]) -> str:
    from spamcaf.scoring.scores import best_baseline

    models, ours = scores["models"], scores["model"]
    best = best_baseline(models)
    beside = f"; best baseline, {display_name(best)}: {models[best][Metric.PCC_MEAN]:.3f}" if best else ""
    where = f"{scores['n_hidden']} hidden spots, mean over {scores['n_genes']} genes"
    return f"score: PCC {models[ours][Metric.PCC_MEAN]:.3f} at {where}{beside}"


def _path(catalog: CatalogProtocol, name: str) -> Path | None:
    dataset = catalog.get(name) if name in catalog else None
    return dataset.path if isinstance(dataset, PathDataset) else None


def _place(names: list[str] | None, pipeline: Pipeline, catalog: CatalogProtocol) -> Path | None:
    """Return the file of a run: beside the report that it writes, else in the folder of the run's reports."""
    beside = next((name for name in REPORTS if name in pipeline.all_outputs()), RUN_TIMES)
    path = _path(catalog, beside)
    return path.with_name(f"{'-'.join(sorted(names or [])) or 'run'}.log") if path else None


def _opened(path: Path | None) -> logging.FileHandler | None:
    if path is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(_Lines(LINE))
    logging.getLogger().addHandler(handler)
    return handler


def _close(handler: logging.FileHandler | None) -> None:
    if handler:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _versions() -> str:
    return ", ".join([*(f"{name} {version(name)}" for name in PACKAGES), f"Python {platform.python_version()}"])


def _choices(chosen: dict[str, Any]) -> str:
    """Return the names of section and run, and what else was chosen for them."""
    env = "" if chosen["env"] in DEFAULT_ENVS else f", environment {chosen['env']}"
    more = [f"{name} {chosen[name]}" for name in CHOICES if chosen.get(name)]
    return f"section {chosen.get('section')}, run {chosen.get('run')}{env}; {', '.join(more)}"

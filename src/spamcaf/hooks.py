"""Hooks: a wrong setting, or a stored result of other settings, stops a run early."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from pydantic import BaseModel, ValidationError

from spamcaf.compute import thread_count, use_threads
from spamcaf.datasets.stored import PathDataset, record_path
from spamcaf.errors import MAX_NAME, InputError, is_section_name
from spamcaf.locks import locked, place_of
from spamcaf.origins import ONE, ROOTS, Origins, settings_in, write_record
from spamcaf.parameters import RUN_CHOICES, SHORT_NAMES, RunSettings
from spamcaf.provenance import without_home
from spamcaf.sessions import Sessions, SessionsDataset

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)

BACKBONE, REFERENCES, SESSIONS, APPLIED_MODEL = "backbone", "references", "sessions", "transfer_model"
RAW = ("raw_section", "slide")
# choices that name folders of results, and the next step after a name that cannot
NAMES = {
    "section": "Rename the section's folder, or give its place with raw_root=<folder>.",
    "model": "Name the measured section whose model is to be applied: model=<section>.",
}
RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # without a dot: no file of a section is called so
CHOSEN_DATASETS = {
    **dict.fromkeys(("image", "bin_um"), RAW),
    **dict.fromkeys(("backbone", "backbone_source"), (BACKBONE,)),
    "other_sections": ("other_sections",),
    "reference": (REFERENCES,),
    "model": (APPLIED_MODEL,),
}
"""The datasets that a choice of a run goes into."""


class SettingsGuard:
    """Checks the settings of a run as soon as Kedro has read them."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the settings and the names of sections; decide over threads once, before libraries are loaded.

        The configuration loader gets the project's folder.
        """
        loader = context.config_loader
        loader.project_root = context.project_path  # type: ignore[attr-defined]
        settings = dict(loader["parameters"])
        compute = check_settings(settings).compute
        use_threads(thread_count(compute))
        chosen = {**loader["globals"], **settings}
        self._read = context, chosen
        check_names(chosen)

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol, parameters: dict[str, Any]) -> None:
        """Add what makes other runs inside this one."""
        sessions = SessionsDataset(Sessions.of(*self._read), settings_in(parameters["parameters"]))
        catalog[SESSIONS] = sessions  # type: ignore[index]


class OriginGuard:
    """Stores beside each result what made it, and stops a run that would mix results of different settings."""

    def __init__(self) -> None:
        self._origins: Origins | None = None
        self._made: dict[str, tuple[Origins, dict[str, Any]]] = {}  # by node

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Compare the stored results that the run will load with its settings, and warn of settings without effect."""
        origins = self._of(catalog)
        names = pipeline.datasets() if run_params.get("only_missing_outputs") else pipeline.inputs()
        origins.require(sorted(names))
        given = set(_dotted(run_params.get("runtime_params") or {}))
        asked = run_params.get("pipeline_names") or ["__default__"]
        whole = sum((pipelines.get(name, pipeline) for name in asked), pipeline)
        if unused := sorted(given - _used(whole, given, origins.names_of(whole.inputs()))):
            message = "--params %s: no effect on %s, whose results do not depend on it"
            logger.warning(message, ", ".join(unused), ", ".join(asked).replace("__default__", "this run"))

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Compare the inputs with each other, and gather what makes the outputs."""
        origins = self._of(catalog)
        self._made[node.name] = origins, origins.of_node(node)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Remove the record of a result that is about to be replaced: a kill meanwhile leaves one without a record."""
        if (dataset := self._result(dataset_name, node)) is not None:
            record_path(dataset.path).unlink(missing_ok=True)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Store the record beside the result."""
        if (dataset := self._result(dataset_name, node)) is not None:
            write_record(dataset, self._made[node.name][1])

    def _of(self, catalog: CatalogProtocol) -> Origins:
        if self._origins is None or self._origins.catalog is not catalog:
            self._origins = Origins(catalog)
        return self._origins

    def _result(self, name: str, node: Node) -> PathDataset[Any, Any] | None:
        dataset = self._made[node.name][0].catalog.get(name)
        return dataset if isinstance(dataset, PathDataset) and dataset.is_result else None


class RunLock:
    """Keeps two runs from writing the same results at once: locks the folders that a run writes and reads."""

    def __init__(self) -> None:
        self._data = Path()
        self._locks: list[ExitStack] = []  # of this run and of those it is inside of

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Learn where the results lie."""
        self._data = Path(context.project_path) / "data"

    @hook_impl(trylast=True)  # what another hook refuses needs no lock
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Lock what the run writes; what it reads may be read by others too."""
        written = places(pipeline.all_outputs(), catalog, self._data)
        with ExitStack() as stack:
            for place in sorted(written | places(pipeline.inputs(), catalog, self._data)):
                stack.enter_context(locked(self._data, place, is_shared=place not in written))
            self._locks.append(stack.pop_all())

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self) -> None:
        """Unlock."""
        self._locks.pop().close()

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self) -> None:
        """Unlock."""
        self._locks.pop().close()


class VizEvents:
    """Takes the user's home folder out of the traceback that Kedro-Viz stores of a run that failed."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Learn where Kedro-Viz stores it."""
        self._events = Path(context.project_path) / ".viz" / "kedro_pipeline_events.json"

    @hook_impl(trylast=True)
    def on_pipeline_error(self) -> None:
        """Write the events again."""
        if self._events.is_file():
            events = without_home(json.loads(self._events.read_text(encoding="utf-8")))
            self._events.write_text(json.dumps(events, indent=2), encoding="utf-8")


def places(names: Iterable[str], catalog: CatalogProtocol, data: Path) -> set[tuple[str, ...]]:
    """Return whose the results among the datasets `names` are: (section,) or (section, run)."""
    datasets = [catalog.get(name) for name in names if name in catalog]
    paths = [each.path for each in datasets if isinstance(each, PathDataset) and each.is_result]
    return {place_of(path, data) for path in paths} - {()}


def check_names(chosen: Mapping[str, Any]) -> None:
    """Raise InputError for a name of a section or a run that cannot name files."""
    for name, next_step in NAMES.items():
        if name in chosen and not is_section_name(str(chosen[name])):
            expected = f"at most {MAX_NAME} letters, digits, '_', '-' and '.', since it names files."
            raise InputError(f"the {name} name '{str(chosen[name])[:MAX_NAME]}'.", expected, next_step)
    run = str(chosen.get("run", "default"))
    if len(run) > MAX_NAME or not RUN_NAME.fullmatch(run):
        expected = f"at most {MAX_NAME} letters, digits, '_' and '-', since it names folders."
        raise InputError(f"the run name '{run[:MAX_NAME]}'.", expected, "Choose another: --params run=<name>.")


def _dotted(params: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _used(pipeline: Pipeline, given: set[str], stored: set[str]) -> set[str]:
    """Return those of the given names that a node takes or a stored input depends on, and names of folders."""
    datasets = pipeline.datasets()
    if SESSIONS in datasets:
        return given  # by the runs that it makes
    taken = {name.removeprefix(ONE) for name in datasets if name.startswith(ONE)}
    chosen = datasets | {ROOTS[name] for name in stored if name in ROOTS}
    full = {name: ".".join(SHORT_NAMES.get(name, (name,))) for name in given}
    used = {name for name, of in full.items() if of in stored or of in taken or of.partition(".")[0] in taken}
    used |= {name for name, into in CHOSEN_DATASETS.items() if not chosen.isdisjoint(into)}
    return used | (given & {"section", "run", "raw_root"})


def check_settings(parameters: dict[str, Any]) -> RunSettings:
    """Return Kedro's parameters as settings; raise InputError for the first one that is unknown or out of range."""
    try:
        return RunSettings.model_validate({k: v for k, v in parameters.items() if k not in RUN_CHOICES})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            nearest, known = _nearest(first["loc"])
            found, next_step = f"the unknown parameter '{place}'.", f"Did you mean '{nearest}'?"
            raise InputError(found, f"one of {', '.join(known)}.", next_step) from error
        found = (
            f"settings {f'of {place}' if place else 'of several groups'}."
            if isinstance(first["input"], dict)
            else f"{place} = {first['input']!r}."
        )
        message = first["msg"].removeprefix("Value error, ")
        next_step = "Correct it in parameters.yml or in --params."
        raise InputError(found, f"{message[:1].lower()}{message[1:]}.", next_step) from error


def _nearest(place: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """Return the known name most similar to the last of `place`, and all known names of its group."""
    group: type[BaseModel] = RunSettings
    for part in place[:-1]:
        group = group.model_fields[str(part)].annotation  # type: ignore[assignment]
    known = list(group.model_fields) + (list(RUN_CHOICES) if group is RunSettings else [])
    return difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0)[0], known

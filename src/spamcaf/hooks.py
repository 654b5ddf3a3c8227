"""Hooks: a wrong setting, or a backbone that cannot be had, stops the run before any work."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import AbstractDataset, DatasetError
from pydantic import BaseModel, ValidationError

from spamcaf.errors import MAX_NAME, InputError, is_section_name
from spamcaf.parameters import RUN_CHOICES, RunSettings

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

BACKBONE, REFERENCES, REPORT = "backbone", "references", "report"
RAW = ("raw_section", "slide")
# choices that name folders of results, and the next step after a name that cannot
NAMES = {
    "section": "Rename the section's folder, or give its place with raw_root=<folder>.",
    "model": "Name the measured section whose model is to be applied: model=<section>.",
}


class SettingsGuard:
    """Checks the settings of a run as soon as Kedro has read them, and its backbone before the first node."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the settings and the names of sections; give the configuration loader the project's folder."""
        loader = context.config_loader
        loader.project_root = context.project_path  # type: ignore[attr-defined]
        settings = dict(loader["parameters"])
        check_settings(settings)
        chosen = {**loader["globals"], **settings}
        for name, next_step in NAMES.items():
            if name in chosen and not is_section_name(str(chosen[name])):
                expected = f"at most {MAX_NAME} letters, digits, '_', '-' and '.', since it names files."
                raise InputError(f"the {name} name '{str(chosen[name])[:MAX_NAME]}'.", expected, next_step)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Look for the references and the backbone that the run will load, before it works for hours; loads nothing."""
        from spamcaf.backbones.weights import TIMEOUT_S
        from spamcaf.datasets.inputs import BackboneDataset, ReferencesDataset

        inputs = pipeline.inputs()
        if REFERENCES in inputs and isinstance(references := catalog.get(REFERENCES), ReferencesDataset):
            references.find()
        features = [name for node in pipeline.nodes if BACKBONE in node.inputs for name in node.outputs]
        is_embedded = run_params.get("only_missing_outputs") and all(_exists(catalog, name) for name in features)
        if BACKBONE not in inputs or is_embedded:
            return
        backbone = catalog.get(BACKBONE)
        try:
            if isinstance(backbone, BackboneDataset):
                backbone.probe(TIMEOUT_S)
        except InputError:
            # raw data that are not there come first: the node that reads them names what is missing
            if all(_exists(catalog, name) for name in RAW if name in inputs):
                raise

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """State where the report lies, as the last line of a run that wrote one."""
        report = catalog.get(REPORT) if REPORT in pipeline.all_outputs() else None
        if isinstance(report, AbstractDataset) and (path := report._describe().get("filepath")):
            logger.info("report: %s", path)


def _exists(catalog: CatalogProtocol, name: str) -> bool:
    try:
        return bool(catalog.exists(name))  # type: ignore[attr-defined]
    except DatasetError:
        return False


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
        found = f"settings of {place}." if isinstance(first["input"], dict) else f"{place} = {first['input']!r}."
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

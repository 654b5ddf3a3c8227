"""Hooks: a wrong setting, or a backbone that cannot be had, stops the run before any work."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import DatasetError
from pydantic import BaseModel, ValidationError

from spamcaf.errors import MAX_NAME, InputError, is_section_name
from spamcaf.parameters import RUN_CHOICES, RunSettings

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

BACKBONE = "backbone"
RAW = ("raw_section", "slide")
NAMES = {
    "section": "Rename the section's folder, or give its place with raw_root=<folder>.",
    "model": "Name the measured section whose model is to be applied: model=<section>.",
}
"""Choices that name folders of results, and the next step after a name that cannot."""


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
                raise InputError(
                    f"the {name} name '{str(chosen[name])[:MAX_NAME]}'.",
                    f"at most {MAX_NAME} letters, digits, '_', '-' and '.', since it names files.",
                    next_step,
                )

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Look for the weights of the backbone that the run will load, before it works for hours; loads nothing."""
        inputs = pipeline.inputs()
        if BACKBONE not in inputs or (run_params.get("only_missing_outputs") and _is_embedded(pipeline, catalog)):
            return
        from spamcaf.backbones.weights import TIMEOUT_S
        from spamcaf.datasets.inputs import BackboneDataset

        backbone = catalog.get(BACKBONE)
        if not isinstance(backbone, BackboneDataset):
            return
        try:
            backbone.probe(TIMEOUT_S)
        except InputError:
            # raw data that are not there come first: the node that reads them names what is missing
            if all(_exists(catalog, name) for name in RAW if name in inputs):
                raise


def _is_embedded(pipeline: Pipeline, catalog: CatalogProtocol) -> bool:
    return all(_exists(catalog, name) for node in pipeline.nodes if BACKBONE in node.inputs for name in node.outputs)


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
            raise InputError(
                f"the unknown parameter '{place}'.", f"one of {', '.join(known)}.", f"Did you mean '{nearest}'?"
            ) from error
        found = f"{place} = {first['input']!r}." if not isinstance(first["input"], dict) else f"settings of {place}."
        message = first["msg"].removeprefix("Value error, ")
        expected = f"{message[:1].lower()}{message[1:]}."
        raise InputError(found, expected, "Correct it in parameters.yml or in --params.") from error


def _nearest(place: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """Return the known name most similar to the last of `place`, and all known names of its group."""
    group: type[BaseModel] = RunSettings
    for part in place[:-1]:
        group = group.model_fields[str(part)].annotation  # type: ignore[assignment]
    known = list(group.model_fields) + (list(RUN_CHOICES) if group is RunSettings else [])
    matches = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0)
    return matches[0], known

"""Hooks: a wrong setting stops the run before any work."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from pydantic import BaseModel, ValidationError

from spamcaf.errors import InputError, is_plain_name
from spamcaf.parameters import RUN_CHOICES, RunSettings

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext


class SettingsGuard:
    """Checks what a run was asked to do as soon as Kedro has read it."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the settings and the section's name."""
        settings = dict(context.config_loader["parameters"])
        check_settings(settings)
        section = settings.get("section")
        if section is not None and not is_plain_name(str(section)):
            raise InputError(
                f"the section name '{section}'.",
                "letters, digits, '_', '-' and '.', since it names files.",
                "Rename the section's folder, or say where it lies with raw_root=<folder>.",
            )


def check_settings(settings: dict[str, Any]) -> None:
    """Raise InputError for the first setting that does not exist or is out of range."""
    own = {name: value for name, value in settings.items() if name not in RUN_CHOICES}
    try:
        RunSettings.model_validate(own)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            nearest, known = _nearest(first["loc"])
            raise InputError(
                f"the unknown parameter '{place}'.", f"one of {', '.join(known)}.", f"Did you mean '{nearest}'?"
            ) from error
        found = f"{place} = {first['input']!r}." if not isinstance(first["input"], dict) else f"settings of {place}."
        message = _lower(first["msg"].removeprefix("Value error, "))
        raise InputError(found, f"{message}.", "Correct it in parameters.yml or in --params.") from error


def _nearest(place: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """Return the known name nearest to the last of `place`, and all known names beside it."""
    group: type[BaseModel] = RunSettings
    for part in place[:-1]:
        group = group.model_fields[str(part)].annotation  # type: ignore[assignment]
    known = list(group.model_fields) + (list(RUN_CHOICES) if group is RunSettings else [])
    matches = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0)
    return matches[0], known


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]

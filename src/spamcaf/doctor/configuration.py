"""Is the configuration readable and valid, and what does it ask for?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.config import MissingConfigException

from spamcaf.doctor.check import Check, in_one_line, passed
from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.hooks import check_settings
from spamcaf.parameters import RUN_CHOICES, RunSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol

NAME = "configuration"


@dataclass(frozen=True)
class Asked:
    """What a run was asked to do."""

    settings: RunSettings
    catalog: CatalogProtocol
    root: Path
    words: str
    """Options of the command line that name the same section, such as `--env dlpfc --params section=151673`."""
    can_download: bool


def check_configuration(load_context: Callable[[], KedroContext]) -> tuple[Check, Asked]:
    """Return what the configuration asks for; raise InputError when it is missing, unreadable or invalid."""
    context = _context(load_context)
    chosen = dict(context.config_loader["globals"])
    parameters = dict(context.params)
    check_settings(parameters)
    settings = RunSettings.model_validate({k: v for k, v in parameters.items() if k not in RUN_CHOICES})
    section, backbone = (parameters.get(name, chosen.get(name)) for name in ("section", "backbone"))
    environment = context.env or "local"
    asked = Asked(
        settings,
        context.catalog,
        Path(context.project_path),
        _words(environment, parameters),
        bool(chosen.get("downloads")),
    )
    return passed(NAME, f"environment {environment}, section {section}, backbone {backbone}, all settings valid"), asked


def _context(load_context: Callable[[], KedroContext]) -> KedroContext:
    try:
        return load_context()
    except MissingConfigException as error:
        raise InputError(f"{error}.", "an environment that has a folder in conf/.", "Check --env.") from error
    except Exception as error:
        if InputError.within(error) is not None or is_fault_of_ours(error):
            raise
        raise InputError(
            f"a configuration that cannot be read ({type(error).__name__}: {in_one_line(error)}).",
            "valid YAML in conf/base and in the environment's folder.",
            "Correct the file that the message names.",
        ) from error


def _words(environment: str, parameters: dict[str, Any]) -> str:
    chosen = [f"{name}={parameters[name]}" for name in ("section", "raw_root") if name in parameters]
    named = [] if environment in {"base", "local"} else ["--env", environment]
    return " ".join([*named, *(["--params", ",".join(chosen)] if chosen else [])])

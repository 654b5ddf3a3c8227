"""All checks, one after the other, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spamcaf.doctor.check import CONFIGURATION, Check, Status, check_configuration, passed, run_check, unchecked, worst
from spamcaf.doctor.inputs import SECTION, check_backbone, check_inputs, read_spec
from spamcaf.doctor.machine import (
    DEVICE,
    DISK,
    MEMORY,
    available_bytes,
    check_device,
    check_disk,
    check_memory,
    estimate_resources,
)
from spamcaf.errors import InputError, first_line
from spamcaf.parameters import RunSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedro.framework.context import KedroContext

    from spamcaf.backbones.load import BackboneSpec
    from spamcaf.doctor.check import RunRequest
    from spamcaf.doctor.machine import Inputs

SOFTWARE = "software"
PACKAGES = ("spamcaf", "kedro", "torch", "torchvision", "timm", "scanpy", "anndata")


def check_software() -> tuple[Check, None]:
    """List the main packages; raise InputError when one is missing, or torch and torchvision do not fit."""
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, number in versions.items() if number is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not installed.", "all packages of pyproject.toml.", "Run `pip install -e .` again."
        )
    try:
        import torchvision  # noqa: F401  its compiled operators are registered with torch here
    except (ImportError, RuntimeError, OSError) as error:
        raise InputError(
            f"torch {versions['torch']} and torchvision {versions['torchvision']}, which do not work together "
            f"({first_line(error)}).",
            "a pair that was built together.",
            "Run `pip install --upgrade torch torchvision` from one index.",
        ) from error
    return passed(SOFTWARE, ", ".join(f"{name} {number}" for name, number in _all(versions).items())), None


def _all(versions: dict[str, str | None]) -> dict[str, str | None]:
    return {"python": platform.python_version(), **versions}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


COLOURS = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "red"}


def as_text(checks: list[Check]) -> str:
    """Return one line per check, the fix below it, and a last line that sums up; styled, for `click.echo`."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        status = click.style(check.status.value, fg=COLOURS[check.status], bold=True)
        lines.append(f"{status}  {check.name:<{width}}  {check.found}")
        if check.fix:
            lines.append(f"{'':<{width + 8}}fix: {check.fix}")
    return "\n".join([*lines, _summary(checks)])


def as_json(checks: list[Check]) -> str:
    """Return {"status": ..., "checks": [{name, status, found, fix}]}, one JSON object."""
    return json.dumps({"status": worst(checks), "checks": [asdict(check) for check in checks]}, indent=2)


def _summary(checks: list[Check]) -> str:
    n_failed, n_warned = (sum(c.status is status for c in checks) for status in (Status.FAIL, Status.WARN))
    warned = f", {n_warned} with a warning" if n_warned else ""
    if n_failed:
        return f"Not ready to run: of {len(checks)} checks {n_failed} failed{warned}."
    return f"Ready to run: {len(checks)} checks{warned}, none failed."


BACKBONE = "backbone"


def examine(load_context: Callable[[], KedroContext], root: Path) -> list[Check]:
    """Return every check of the run that `load_context` describes, in the project at `root`. Writes nothing.

    Without a configuration there are no inputs and no backbone to look at; the machine is checked all the same.
    """
    available = available_bytes()  # before the inputs are read
    configured, request = run_check(CONFIGURATION, partial(check_configuration, load_context))
    if request is None:
        skipped = [unchecked(SECTION, CONFIGURATION), unchecked(BACKBONE, CONFIGURATION)]
        return [configured, *skipped, *_machine(RunSettings(), root, available)]
    inputs_checked, inputs = check_inputs(request)
    backbone_checked, _ = run_check(BACKBONE, partial(check_backbone, request))
    machine = _machine(request.settings, request.root, available, inputs, _spec(request))
    return [configured, *inputs_checked, backbone_checked, *machine]


def _spec(request: RunRequest) -> BackboneSpec | None:
    # what is wrong with it, the backbone's own check says
    _, spec = run_check(BACKBONE, lambda: (unchecked(BACKBONE, BACKBONE), read_spec(request)))
    return spec


def _machine(
    settings: RunSettings,
    root: Path,
    available: int | None,
    inputs: Inputs | None = None,
    spec: BackboneSpec | None = None,
) -> list[Check]:
    width = spec.width if spec else None
    resources = estimate_resources(settings, inputs, width) if inputs and width else None
    checks: dict[str, Callable[[], tuple[Check, None]]] = {
        DEVICE: partial(check_device, settings.compute, spec, resources),
        MEMORY: partial(check_memory, available, settings, inputs, width),
        DISK: partial(check_disk, root / "data", resources),
        SOFTWARE: check_software,
    }
    return [run_check(name, check)[0] for name, check in checks.items()]

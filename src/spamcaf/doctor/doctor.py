"""All checks of `kedro doctor`, one after the other, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spamcaf.doctor import inputs, machine, timing
from spamcaf.doctor.check import Check, Finding, Status, check_configuration, run_check, skip_check
from spamcaf.histology.dense import is_dense
from spamcaf.limits import available_bytes
from spamcaf.parameters import RunSettings

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

COLOURS = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "red"}


def examine(load_context: Callable[[], KedroContext], root: Path) -> list[Check]:
    """Make every check of one run; nothing is written.

    Parameters
    ----------
    load_context
        Loads the context of the run; where it raises, only the machine is checked, for the default settings.
    root
        The project's folder.

    Returns
    -------
    list of Check
        In the order of the report.
    """
    available = available_bytes()  # before the inputs are read
    configured, request = run_check("configuration", partial(check_configuration, load_context))
    checks, settings, size, spec = [configured], RunSettings(), None, None
    if request is None:
        checks += [skip_check(name, "configuration") for name in ("section", "backbone", "reference")]
    else:
        settings, root = request.settings, request.root
        inputs_checked, size = inputs.check_inputs(request)
        checks += [*inputs_checked, run_check("backbone", partial(inputs.check_backbone, request))[0]]
        checks += [run_check("reference", partial(inputs.check_references, request))[0]]
        # what is wrong with the backbone's entry is in its own line
        _, spec = run_check("backbone", lambda: Finding("", value=inputs.read_spec(request)))
    width = spec.width if spec else None
    if spec:
        tiles, fit = settings.tiles, settings.fit
        how = is_dense(tiles, fit.model, fit.finetune, loses_nothing=spec.dense)
        settings = settings.model_copy(update={"tiles": tiles.model_copy(update={"dense": how})})
    resources = machine.estimate_resources(settings, size, width) if size and width else None
    of_machine: dict[str, Callable[[], Finding[None]]] = {
        "time": partial(timing.check_time, request and request.catalog["backbone"], settings, size, resources),
        "device": partial(machine.check_device, settings.compute, spec, resources),
        "memory": partial(machine.check_memory, available, settings, size, width),
        "disk": partial(machine.check_disk, root / "data", resources),
        "software": machine.check_software,
    }
    return checks + [run_check(name, check)[0] for name, check in of_machine.items()]


def worst(checks: Iterable[Check]) -> Status:
    """Return the worst status, PASS where there are no checks."""
    return max((check.status for check in checks), key=list(Status).index, default=Status.PASS)


def as_text(checks: list[Check]) -> str:
    """Return a line per check, the fix below it, and a last line that sums up; styled, for `click.echo`."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        status = click.style(check.status.value, fg=COLOURS[check.status], bold=True)
        lines.append(f"{status}  {check.name:<{width}}  {check.found}")
        if check.fix:
            lines.append(f"{'':<{width + 8}}fix: {check.fix}")
    n_failed, n_warned = (sum(c.status is status for c in checks) for status in (Status.FAIL, Status.WARN))
    warned = f", {n_warned} with a warning" if n_warned else ""
    failed = f"Not ready to run: of {len(checks)} checks {n_failed} failed{warned}."
    return "\n".join([*lines, failed if n_failed else f"Ready to run: {len(checks)} checks{warned}, none failed."])


def as_json(checks: list[Check]) -> str:
    """Return {"status": ..., "checks": [{name, status, found, fix}]}, one JSON object."""
    return json.dumps({"status": worst(checks), "checks": [asdict(check) for check in checks]}, indent=2)

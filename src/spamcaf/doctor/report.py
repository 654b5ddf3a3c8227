"""The checks as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from spamcaf.doctor.check import Check, Status, worst

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

"""The report reads well on a terminal and in a file, and is one JSON object for programs."""

from __future__ import annotations

import json

import click

from spamcaf.doctor.check import Check, Status, passed, warned
from spamcaf.doctor.doctor import as_json, as_text

CHECKS = [passed("disk", "much"), warned("backbone", "somewhere", "Do this."), Check("slide", Status.FAIL, "x", "Fix.")]


def test_every_check_has_a_line_and_its_fix_below() -> None:
    lines = click.unstyle(as_text(CHECKS)).splitlines()
    assert lines[0] == "PASS  disk      much"
    assert lines[1:3] == ["WARN  backbone  somewhere", "                fix: Do this."]
    assert lines[-1] == "Not ready to run: of 3 checks 1 failed, 1 with a warning."
    assert click.unstyle(as_text(CHECKS[:1])).endswith("Ready to run: 1 checks, none failed.")


def test_json_has_the_worst_status_and_all_fields() -> None:
    report = json.loads(as_json(CHECKS))
    assert report["status"] == "FAIL"
    assert report["checks"][1] == {"name": "backbone", "status": "WARN", "found": "somewhere", "fix": "Do this."}
    assert len(report["checks"]) == 3

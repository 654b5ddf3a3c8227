"""`kedro doctor` in a small project: exit codes, one JSON object on standard output, nothing written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]


def files(project: Path) -> set[Path]:
    return {path for path in project.rglob("*") if "__pycache__" not in path.parts}


def test_a_run_that_can_work_passes_and_nothing_is_written(kedro: Run, project: Path) -> None:
    before = files(project)
    done = kedro("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == "PASS", report
    assert {tuple(check) for check in report["checks"]} == {("name", "status", "found", "fix")}
    assert files(project) == before


def test_a_missing_section_is_one_failure_and_exit_code_1(kedro: Run) -> None:
    done = kedro("doctor", "--params", "section=nobody")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == [
        next(line for line in lines if "nobody" in line and "FAIL" in line)
    ]
    assert "\x1b[" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_missing_environment_is_a_failure_and_exit_code_1(kedro: Run) -> None:
    done = kedro("doctor", "--env", "nope", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["checks"][0]["status"] == "FAIL"


def test_an_old_name_of_a_setting_is_a_warning(kedro: Run) -> None:
    done = kedro("doctor", "--params", "section=nobody,fit.hide_share=0.25", "--json")
    check = json.loads(done.stdout)["checks"][0]
    assert (check["name"], check["status"]) == ("configuration", "WARN")
    assert check["found"].count("fit.hide_share is now called fit.context_dropout") == 1

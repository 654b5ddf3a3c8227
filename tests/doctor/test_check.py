"""A check says what was found and what to do, whatever ended it."""

from __future__ import annotations

import logging

import pytest
from kedro.io import DatasetError

from spamcaf.doctor.check import EXPECTED, Check, Status, failed, passed, run_check, warned, worst
from spamcaf.errors import InputError

OURS = InputError("no file.", "one.", "Put it there.")


def test_an_input_error_is_split_into_found_and_fix() -> None:
    assert failed("a", OURS) == Check("a", Status.FAIL, "no file. Expected: one.", "Put it there.")


def test_an_input_error_that_kedro_wrapped_is_found() -> None:
    wrapped = DatasetError("Failed while loading")
    wrapped.__cause__ = OURS
    assert failed("a", wrapped) == failed("a", OURS)


def test_what_else_can_be_done_is_appended() -> None:
    assert failed("a", OURS, "Or fetch it.").fix == "Put it there. Or fetch it."


@pytest.mark.parametrize("error", [KeyError("k"), RuntimeError("two\nlines"), ValueError()])
def test_an_unexpected_error_is_one_line_with_its_type(error: Exception) -> None:
    check = failed("a", error)
    assert check.found.startswith(f"{type(error).__name__}: ")
    assert "\n" not in check.found
    assert check.fix


def test_a_very_long_message_is_cut() -> None:
    assert len(failed("a", RuntimeError("x" * 10_000)).found) < 500


def test_what_a_check_raises_becomes_a_failure() -> None:
    def broken() -> tuple[Check, int]:
        raise OSError("gone")

    assert run_check("a", broken) == (failed("a", OSError("gone")), None)
    assert run_check("a", lambda: (passed("a", "fine"), 3)) == (passed("a", "fine"), 3)


def test_what_the_project_warns_of_is_part_of_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    def doubtful() -> tuple[Check, int]:
        logging.getLogger("spamcaf.somewhere").warning("counts were %s.", "recovered")
        logging.getLogger("spamcaf.somewhere").info("detail")
        return passed("a", "fine"), 3

    assert run_check("a", doubtful) == (warned("a", "fine; counts were recovered", EXPECTED), 3)
    assert "recovered" not in "".join(capsys.readouterr())
    assert logging.getLogger("spamcaf").propagate


def test_the_worst_status_counts() -> None:
    fine, doubtful, bad = passed("a", ""), warned("b", "", "x"), failed("c", OURS)
    assert worst([]) is Status.PASS
    assert worst([fine, doubtful, fine]) is Status.WARN
    assert worst([bad, doubtful, fine]) is Status.FAIL

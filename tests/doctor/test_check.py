"""A check states what was found and what to do, whatever ended it; meanwhile standard output stays empty."""

from __future__ import annotations

import logging
import sys

import pytest
from kedro.io import DatasetError

from spamcaf.doctor.check import EXPECTED, Check, Finding, Status, quiet, run_check
from spamcaf.errors import InputError

OURS = InputError("no file.", "one.", "Put it there.")


def check_that_raises(error: Exception, otherwise: str = "") -> Check:
    def broken() -> Finding[int]:
        raise error

    check, value = run_check("a", broken, otherwise)
    assert value is None
    return check


def test_a_finding_passes_with_its_value_and_a_next_step_makes_it_a_warning() -> None:
    assert run_check("a", lambda: Finding("fine", value=3)) == (Check("a", Status.PASS, "fine"), 3)
    assert run_check("a", lambda: Finding("odd", "Look.", 3)) == (Check("a", Status.WARN, "odd", "Look."), 3)


def test_an_input_error_is_split_into_found_and_fix() -> None:
    assert check_that_raises(OURS) == Check("a", Status.FAIL, "no file. Expected: one.", "Put it there.")


def test_an_input_error_that_kedro_wrapped_is_found() -> None:
    wrapped = DatasetError("Failed while loading")
    wrapped.__cause__ = OURS
    assert check_that_raises(wrapped) == check_that_raises(OURS)


def test_an_alternative_is_appended_to_the_next_step() -> None:
    assert check_that_raises(OURS, "Or fetch it.").fix == "Put it there. Or fetch it."


@pytest.mark.parametrize("error", [KeyError("k"), RuntimeError("two\nlines"), ValueError(), OSError("gone")])
def test_an_unexpected_error_is_one_line_with_its_type(error: Exception) -> None:
    check = check_that_raises(error)
    assert check.status is Status.FAIL
    assert check.found.startswith(f"{type(error).__name__}: ")
    assert " ".join(str(error).split()) in check.found
    assert "\n" not in check.found
    assert check.fix


def test_a_very_long_message_is_cut() -> None:
    assert len(check_that_raises(RuntimeError("x" * 10_000)).found) < 500
    assert 400 < len(check_that_raises(RuntimeError("long " * 10_000)).found) < 500


def test_warnings_of_the_project_are_part_of_the_check(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="spamcaf.somewhere")

    def doubtful() -> Finding[int]:
        logging.getLogger("spamcaf.somewhere").warning("counts were %s.", "recovered")
        logging.getLogger("spamcaf.somewhere").info("detail")
        return Finding("fine", value=3)

    assert run_check("a", doubtful) == (Check("a", Status.WARN, "fine; counts were recovered", EXPECTED), 3)
    assert "recovered" not in "".join(capsys.readouterr())
    assert logging.getLogger("spamcaf").propagate


def test_output_and_warnings_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("spamcaf.test_check")
    logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        with quiet():
            sys.stdout.write("printed")
            logger.info("detail")
            logger.warning("careful")
        inside = capsys.readouterr()
        logger.info("again")
        assert "again" in capsys.readouterr().out
    finally:
        logging.getLogger().removeHandler(handler)
    assert inside.out == ""
    assert "printed" in inside.err and "careful" in inside.err and "detail" not in inside.err


def test_an_exception_undoes_it_too() -> None:
    before = sys.stdout
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert sys.stdout is before
    assert logging.root.manager.disable == logging.NOTSET

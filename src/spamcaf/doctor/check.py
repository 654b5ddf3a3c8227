"""The outcome of one check: what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from spamcaf.doctor.quiet import overheard
from spamcaf.errors import InputError

T = TypeVar("T")

EXPECTED = "Nothing, if this is what you expect: a run goes on."


class Status(StrEnum):
    """How a check ended."""

    PASS = "PASS"  # noqa: S105  not a password
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` is what to do next, empty where nothing needs doing."""

    name: str
    status: Status
    found: str
    fix: str = ""


def passed(name: str, found: str) -> Check:
    """Return a check that found what it should."""
    return Check(name, Status.PASS, found)


def warned(name: str, found: str, fix: str) -> Check:
    """Return a check that found something to know of; a run can start all the same."""
    return Check(name, Status.WARN, found, fix)


def failed(name: str, error: BaseException, otherwise: str = "") -> Check:
    """Return a check that an error ended: an InputError in its own words, any other with its type.

    `otherwise` is appended to the next step.
    """
    ours = InputError.within(error)
    if ours is None:
        found = f"{type(error).__name__}: {in_one_line(error) or 'no message'}"
        fix = "This may be a fault of the program: report it with the output of `kedro run` at the same settings."
    else:
        found, _, fix = str(ours).removeprefix("Found: ").partition(" Next step: ")
    return Check(name, Status.FAIL, found, " ".join(filter(None, [fix, otherwise])))


def in_one_line(error: BaseException, longest: int = 400) -> str:
    """Return the error's message on one line, cut where it is very long."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def unchecked(name: str, first: str) -> Check:
    """Return a check that could not be made, since `first` failed."""
    return warned(name, f"not checked: it needs the {first}, which failed.", f"Mend the {first} first.")


def attempt(name: str, check: Callable[[], tuple[Check, T]], otherwise: str = "") -> tuple[Check, T | None]:
    """Return what `check` found and read; whatever it raises becomes a FAIL, so that the other checks go on.

    Warnings that the project logs meanwhile are part of what was found, and make a PASS a WARN.
    """
    with overheard() as warnings:
        try:
            found, value = check()
        except Exception as error:
            return failed(name, error, otherwise), None
    if not warnings:
        return found, value
    return warned(name, "; ".join([found.found, *warnings]), found.fix or EXPECTED), value


def worst(checks: Iterable[Check]) -> Status:
    """Return the worst status, PASS where there are no checks."""
    order = list(Status)
    return max((check.status for check in checks), key=order.index, default=Status.PASS)

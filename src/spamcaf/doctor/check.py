"""One check of the doctor: its outcome, errors and warnings that belong to it, and the check of the configuration."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from kedro.config import MissingConfigException

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.hooks import check_settings

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol

    from spamcaf.parameters import RunSettings

T_co = TypeVar("T_co", covariant=True)
EXPECTED = "Nothing, if this is what you expect: a run goes on."
LONGEST_MESSAGE = 400  # characters of an unexpected error that are shown


@contextmanager
def quiet() -> Iterator[None]:
    """Redirect standard output and its log handlers to standard error, and drop log lines below WARNING, inside."""
    of_root = logging.getLogger().handlers
    handlers = [each for each in of_root if isinstance(each, logging.StreamHandler) and each.stream is sys.stdout]
    output, disabled = sys.stdout, logging.root.manager.disable
    for handler in handlers:
        handler.setStream(sys.stderr)
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(disabled)
        for handler in handlers:
            handler.setStream(output)


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """Give a list that holds, after the block, the warnings that the project logged; they are not printed."""
    warnings: list[str] = []
    logger, handler = logging.getLogger("spamcaf"), BufferingHandler(sys.maxsize)
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield warnings
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)
        warnings += [record.getMessage().rstrip(".") for record in handler.buffer]


class Status(StrEnum):
    """How a check ended, the worst last."""

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


@dataclass(frozen=True)
class Finding(Generic[T_co]):
    """What a check found: its text, what to do about it (empty after a PASS), and what it read for later checks."""

    text: str
    fix: str = ""
    value: T_co | None = None


def run_check(name: str, check: Callable[[], Finding[T_co]], otherwise: str = "") -> tuple[Check, T_co | None]:
    """Run `check`; return its line of the report and the finding's value, None where it failed.

    Whatever it raises becomes a FAIL, so that the other checks go on, with `otherwise` appended to the next step.
    Warnings that the project logs meanwhile are appended to what was found, and make a PASS a WARN.
    """
    with captured_warnings() as warnings:
        try:
            finding = check()
        except Exception as error:
            if ours := InputError.within(error):
                found, _, fix = str(ours).removeprefix("Found: ").partition(" Next step: ")
            else:
                found = f"{type(error).__name__}: {_in_one_line(error) or 'no message'}"
                fix = "This may be a fault of the program: report it with the output of `kedro run` at these settings."
            return Check(name, Status.FAIL, found, f"{fix} {otherwise}".strip()), None
    fix = finding.fix or (EXPECTED if warnings else "")
    status = Status.WARN if fix else Status.PASS
    return Check(name, status, "; ".join([finding.text, *warnings]), fix), finding.value


def skip_check(name: str, first: str) -> Check:
    """Return the line of a check that could not be made, since the check `first` failed."""
    return Check(name, Status.WARN, f"not checked: it needs the {first}, which failed.", f"Correct the {first} first.")


def _in_one_line(error: BaseException) -> str:
    return textwrap.shorten(str(error), LONGEST_MESSAGE, placeholder=" ...")


@dataclass(frozen=True)
class RunRequest:
    """The configuration of a run; `words` are the options that name the same section, such as `--env dlpfc`."""

    settings: RunSettings
    catalog: CatalogProtocol
    root: Path
    words: str
    can_download: bool


def check_configuration(load_context: Callable[[], KedroContext]) -> Finding[RunRequest]:
    """Read the configuration of the run; raise InputError when it is missing, unreadable or invalid."""
    context = _load(load_context)
    chosen, parameters, environment = context.config_loader["globals"], context.params, context.env or "local"
    section, backbone = (parameters.get(name, chosen.get(name)) for name in ("section", "backbone"))
    named = [f"{name}={parameters[name]}" for name in ("section", "raw_root") if name in parameters]
    options = [] if environment in {"base", "local"} else ["--env", environment]
    words = " ".join([*options, *(["--params", ",".join(named)] if named else [])])
    settings, root = check_settings(parameters), Path(context.project_path)
    request = RunRequest(settings, context.catalog, root, words, can_download=bool(chosen.get("downloads")))
    found = f"environment {environment}, section {section}, backbone {backbone}, all settings valid"
    return Finding(found, value=request)


def _load(load_context: Callable[[], KedroContext]) -> KedroContext:
    try:
        return load_context()
    except MissingConfigException as error:
        raise InputError(f"{error}.", "an environment that has a folder in conf/.", "Check --env.") from error
    except Exception as error:
        if InputError.within(error) is not None or is_fault_of_ours(error):
            raise
        found = f"a configuration that cannot be read ({type(error).__name__}: {_in_one_line(error)})."
        expected = "valid YAML in conf/base and in the environment's folder."
        raise InputError(found, expected, "Correct the file that the message names.") from error

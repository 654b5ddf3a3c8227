"""One check of the doctor: its outcome, what the configuration asks for, and warnings captured."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kedro.config import MissingConfigException

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.hooks import check_settings
from spamcaf.parameters import RUN_CHOICES, RunSettings

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol


@contextmanager
def quiet() -> Iterator[None]:
    """Send what is printed and logged to standard error, log lines only from WARNING on; undone afterwards."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout
    ]
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
def capture_warnings(name: str = "spamcaf") -> Iterator[list[str]]:
    """Give a list that takes the warnings logged inside, by loggers of `name`, instead of letting them be printed."""
    warnings: list[str] = []
    logger, listener = logging.getLogger(name), _Listener(warnings)
    logger.addHandler(listener)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield warnings
    finally:
        logger.propagate = propagates
        logger.removeHandler(listener)


class _Listener(logging.Handler):
    """Keeps messages."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self._messages.append(record.getMessage().rstrip("."))


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


def run_check(name: str, check: Callable[[], tuple[Check, T]], otherwise: str = "") -> tuple[Check, T | None]:
    """Return what `check` found and read; whatever it raises becomes a FAIL, so that the other checks go on.

    Warnings that the project logs meanwhile are part of what was found, and make a PASS a WARN.
    """
    with capture_warnings() as warnings:
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


CONFIGURATION = "configuration"


@dataclass(frozen=True)
class RunRequest:
    """What a run was asked to do."""

    settings: RunSettings
    catalog: CatalogProtocol
    root: Path
    words: str
    """Options of the command line that name the same section, such as `--env dlpfc --params section=151673`."""
    can_download: bool


def check_configuration(load_context: Callable[[], KedroContext]) -> tuple[Check, RunRequest]:
    """Return what the configuration asks for; raise InputError when it is missing, unreadable or invalid."""
    context = _context(load_context)
    chosen = dict(context.config_loader["globals"])
    parameters = dict(context.params)
    check_settings(parameters)
    settings = RunSettings.model_validate({k: v for k, v in parameters.items() if k not in RUN_CHOICES})
    section, backbone = (parameters.get(name, chosen.get(name)) for name in ("section", "backbone"))
    environment = context.env or "local"
    request = RunRequest(
        settings,
        context.catalog,
        Path(context.project_path),
        _words(environment, parameters),
        bool(chosen.get("downloads")),
    )
    return passed(
        CONFIGURATION, f"environment {environment}, section {section}, backbone {backbone}, all settings valid"
    ), request


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

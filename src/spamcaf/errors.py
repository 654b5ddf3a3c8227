"""The error for a user's input, how it differs from a fault of the program, and parts of its next step."""

from __future__ import annotations

import copyreg
import difflib
import re
import shlex
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

PACKAGE = Path(__file__).parent
# messages of a TypeError where a library's function no longer takes the arguments of this program
API_MISMATCH = re.compile(r"unexpected keyword argument|positional argument|not callable|missing \d+ required")
DEFAULT_ENVS = {None, "", "base", "local"}
MAX_NAME = 200  # a file's name takes 255 bytes; results add their endings to a section's name


class InputError(ValueError):
    """An input of the user cannot be used; the message states what was found, what was expected and the next step."""

    def __init__(self, found: str, expected: str, next_step: str) -> None:
        super().__init__(f"Found: {found} Expected: {expected} Next step: {next_step}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message, not the three parts: errors of a worker process are sent to its parent."""
        return copyreg.__newobj__, (type(self), *self.args)  # type: ignore[attr-defined]

    @classmethod
    def within(cls, error: BaseException | None) -> Self | None:
        """Return the InputError among `error` and its causes, or None: Kedro wraps what its datasets raise."""
        while error is not None:
            if isinstance(error, cls):
                return error
            error = error.__cause__ or error.__context__
        return None


def is_fault_of_ours(error: BaseException) -> bool:
    """Return whether an error is a fault of this program or of its installed libraries, not of the file it reads.

    Readers catch whatever a library raises on broken content. A call of this package to something that the installed
    version of a library does not have fails in the same place, and must stay a traceback: the user's file is sound.
    Such is a missing name, attribute or module, or a call with wrong arguments, raised by a line of this package.
    """
    is_mismatch = isinstance(error, TypeError) and bool(API_MISMATCH.search(str(error)))
    if not (is_mismatch or isinstance(error, AttributeError | NameError | ImportError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the nearest of `known`, with a space behind; nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{near[0]}'? " if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_columns(found: list[str], expected: list[str], where: str) -> None:
    """Raise InputError unless every expected column is among those found in `where`."""
    if missing := [name for name in expected if name not in found]:
        raise InputError(
            f"columns {', '.join(map(str, found[:12]))} in {where}.",
            f"also {', '.join(missing)}.",
            "Check that this is the file that the data set's layout requires.",
        )


def is_section_name(name: str) -> bool:
    """Return whether `name` can name files and SpatialData elements: letters, digits, `_`, `-` and `.`."""
    return len(name) <= MAX_NAME and bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name))


def options_of(env: str | None, params: Mapping[str, Any] | None, only: tuple[str, ...] = ()) -> str:
    """Return --env and --params of a run as they are typed, with a space before; `only` names the params that count."""
    given = [f"{name}={_typed(value)}" for name, value in _flat(params or {}) if name in only or not only]
    words = [] if env in DEFAULT_ENVS else ["--env", str(env)]
    words += ["--params", ",".join(given)] if given else []
    return f" {shlex.join(words)}" if words else ""


def _flat(params: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _typed(value: Any) -> str:  # noqa: ANN401  whatever a command line gives
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

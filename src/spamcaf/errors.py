"""The one error that users are meant to read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

PACKAGE = Path(__file__).parent


class InputError(ValueError):
    """Something the user gave cannot be used: says what was found, what was expected, and what to do next."""

    def __init__(self, found: str, expected: str, next_step: str) -> None:
        super().__init__(f"Found: {found} Expected: {expected} Next step: {next_step}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message: a worker process hands its errors over."""
        return _restored, (type(self), self.args)

    @classmethod
    def within(cls, error: BaseException | None) -> Self | None:
        """Return the input error that caused `error`, or None: Kedro wraps what its datasets raise."""
        while error is not None:
            if isinstance(error, cls):
                return error
            error = error.__cause__ or error.__context__
        return None


def _restored(kind: type[InputError], args: tuple[Any, ...]) -> InputError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


API_MISMATCH = re.compile(r"unexpected keyword argument|positional argument|not callable|missing \d+ required")
"""What a TypeError says when a library's function no longer takes what this program passes."""


def is_fault_of_ours(error: BaseException) -> bool:
    """Tell whether an error is a mistake of this program or of its installed libraries, and no damage of a file.

    Readers catch whatever a library raises at broken content. A call of this package to something that the installed
    version of a library does not have fails in the same place, and must stay a traceback: the user's file is sound.

    Parameters
    ----------
    error
        An exception that was caught, with its traceback.

    Returns
    -------
    bool
        True for a missing name, attribute or module, or a call with wrong arguments, raised by a line of this package.
    """
    is_mismatch = isinstance(error, TypeError) and bool(API_MISMATCH.search(str(error)))
    if not (is_mismatch or isinstance(error, AttributeError | NameError | ImportError)):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_columns(found: list[str], expected: list[str], where: str) -> None:
    """Raise InputError unless every expected column is among those found in `where`."""
    missing = [name for name in expected if name not in found]
    if missing:
        raise InputError(
            f"columns {', '.join(map(str, found[:12]))} in {where}.",
            f"also {', '.join(missing)}.",
            "Check that this is the file that the data set's layout asks for.",
        )


def is_plain_name(name: str) -> bool:
    """Tell whether `name` is safe as a file name and as a SpatialData element: letters, digits, `_`, `-`, `.`."""
    return bool(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name))


MAX_NAME = 200
"""A file's name takes 255 bytes; results add their endings to a section's name."""


def is_section_name(name: str) -> bool:
    """Tell whether `name` can name a section's folders and results."""
    return is_plain_name(name) and len(name) <= MAX_NAME

"""What libraries raise when a file is cut off, corrupt, or holds something else than its name says."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spamcaf.errors import InputError, first_line, is_fault_of_ours

UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, zlib.error)
"""h5py raises RuntimeError for some damaged blocks, gzip zlib.error, scipy OverflowError; parsers raise the others."""


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn what libraries raise at the damaged file at `path` into InputError; a fault of ours stays what it is."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, InputError) or is_fault_of_ours(error):
            raise
        text = first_line(error).rstrip(".")
        raise InputError(f"{path} cannot be read ({text}).", f"{expected}.", "Fetch it again.") from error

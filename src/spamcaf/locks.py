"""Locks of results: who writes into a folder of results is alone there. A lock ends with the process that holds it."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from spamcaf.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCKS = ".locks"  # below data/; no section and no layer is called so
_held: dict[Path, IO[str]] = {}


@contextmanager
def locked(data: Path, place: tuple[str, ...], *, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock of the results `place` inside the block; many may read at once (`is_shared`), one may write.

    The kernel keeps it (`flock`), so nothing is left of a process that was killed. What this process holds already is
    held, for runs inside a run. A file system without locks gives a warning.

    Parameters
    ----------
    data : the project's folder of results
    place : section, or section and run

    Raises
    ------
    InputError : where another process holds it
    """
    path = data / LOCKS / f"{'+'.join(place)}.lock"  # `+` stands in no name
    if fcntl is None or path in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(
                f"results of {' in run '.join(place)} that {holder} is working on.",
                "one run at a time that writes results of a section.",
                "Wait until it has ended.",
            ) from error
        except OSError as error:
            logger.warning("%s: no locks there (%s); never run a section twice at the same time", path.parent, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        _held[path] = file
        try:
            yield
        finally:
            del _held[path]  # closing the file ends the lock


def place_of(path: Path, data: Path) -> tuple[str, ...]:
    """Return whose result lies at `path`: (section,) or (section, run); empty outside of the layers of `data`."""
    return path.relative_to(data).parts[1:-1] if path.is_relative_to(data) else ()

"""Bounds on what an input file may be and may claim, checked before memory or time is spent on it.

Whatever a user names may be a pipe that never ends, state sizes that it does not hold, or unpack to a thousand times
its size. Every reader opens its files here, or has the sizes that they declare compared here with those that are there.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GZIP_MAGIC = b"\x1f\x8b"
FREE_BYTES, FREE_TEXT_BYTES = GIB, 256 * MIB
"""So much may be declared by an array, or come out of a packed file, whatever the size of the file."""
TEXT_RATIO, COUNTS_RATIO = 100, 500
"""Bytes of text per byte of its gzip file: positions reach 20, tables of counts that are nearly all 0 200."""
ARRAY_RATIO = 2000
"""The same of an array and its chunks, which gzip can make 1032 times smaller where all is 0."""
MAX_JSON_BYTES, MAX_TABLE_BYTES, MAX_THUMBNAIL_BYTES = 16 * MIB, 4 * GIB, 256 * MIB
"""Scale factors take a kilobyte; 30 million bins of Visium HD, with barcodes and positions, 3 GB."""
MAX_COLUMNS, MAX_GENES = 1000, 200_000
"""Columns of a table of spots or labels, and of one with a column per gene."""
MAX_LINE_BYTES, MANY_LINES = 64 * MIB, 100_000
NUMBER_BYTES = 16  # of a cell, while it is converted
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
FETCH = "Fetch or write the file again."
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def require_regular(path: Path) -> None:
    """Raise InputError where `path` is a folder, pipe, socket or device: reading one may wait or go on for ever."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        found = f"{path}, which is {KINDS.get(kind, 'a device')}."
        raise InputError(found, "a plain file.", "Put the file itself there, or name another.")


def require_memory(n_bytes: int, path: Path) -> None:
    """Raise InputError where content that takes `n_bytes` in memory, by what its file declares, has no room there."""
    available = available_bytes()
    if available is not None and n_bytes > available:
        raise InputError(
            f"{path}, whose content takes {n_bytes / GIB:.1f} GiB of memory by what it declares; "
            f"{available / GIB:.1f} GiB are available.",
            "content that fits into memory.",
            "Use a machine with more memory. If the section should be smaller, the file is damaged: fetch it again.",
        )


def require_plausible(declared: int, stored: int, what: str) -> None:
    """Raise ValueError where an array declares far more bytes than its compressed chunks can hold."""
    if declared > max(FREE_BYTES, ARRAY_RATIO * stored):
        raise ValueError(f"{what} declares {declared / GIB:.1f} GiB and stores {stored} bytes")


@contextmanager
def opened(path: Path, at_most: int = MAX_TABLE_BYTES, ratio: int = TEXT_RATIO) -> Iterator[BinaryIO]:
    """Open a plain file to read, unpacked where its content is gzip.

    Reading beyond `at_most` bytes, or beyond `ratio` times the size of a packed file, raises InputError. So does
    opening anything but a plain file.
    """
    require_regular(path)
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        limit = min(at_most, max(FREE_TEXT_BYTES, ratio * path.stat().st_size))
        content = gzip.GzipFile(fileobj=file) if is_packed else file
        yield cast(BinaryIO, io.BufferedReader(_Bounded(content, limit, path), MIB))


class _Bounded(io.RawIOBase):
    """A stream that raises InputError once more than `limit` bytes came out of it."""

    def __init__(self, content: Any, limit: int, path: Path) -> None:  # noqa: ANN401  a file, packed or not
        self._content, self._limit, self._path, self._left = content, limit, path, limit

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer."""
        view = memoryview(buffer)
        n_read: int = self._content.readinto(view[: self._left + 1])
        self._left -= n_read
        if self._left < 0:
            raise InputError(
                f"{self._path}, which holds or unpacks to more than {self._limit / MIB:.0f} MiB.",
                "a file of the size that such files have.",
                FETCH,
            )
        return n_read


def read_bytes(path: Path, at_most: int = MAX_TABLE_BYTES) -> bytes:
    """Return the content of a plain file, unpacked where it is gzip; raise InputError beyond `at_most` bytes."""
    available = available_bytes()
    with opened(path, at_most if available is None else min(at_most, available)) as file:
        return file.read()


def read_json(path: Path) -> Any:  # noqa: ANN401  whatever JSON holds
    """Return what a JSON file holds, gzipped or not; raise ValueError where it is none, too large or nested too deep.

    InputError, which names the file, is a ValueError.
    """
    try:
        return json.loads(read_bytes(path, MAX_JSON_BYTES))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def require_table(file: BinaryIO, separator: str, most_columns: int, path: Path) -> bytes:
    """Return the first line that is not blank of a table of text, whose stream is read to the end.

    Raises InputError where that has more than `most_columns` columns, where many lines have none, and where numbers in
    all cells would not fit into memory.
    """
    mark, first, n_lines, n_marks = separator.encode(), b"", 0, 0
    for block in iter(lambda: file.read(MAX_LINE_BYTES), b""):
        first = first or block.lstrip(b"\r\n").partition(b"\n")[0]
        n_lines, n_marks = n_lines + block.count(b"\n"), n_marks + block.count(mark)
    n_columns = first.count(mark) + 1
    if n_columns > most_columns or len(first) >= MAX_LINE_BYTES:
        found = f"{n_columns} columns in the first line of {path}."
        raise InputError(found, f"at most {most_columns}.", f"Is it the table that is meant? {FETCH}")
    if n_lines > MANY_LINES and n_marks < n_lines:
        raise InputError(f"{n_lines} lines without columns in {path}.", "a table of several columns.", FETCH)
    require_memory(n_lines * n_columns * NUMBER_BYTES, path)
    return first


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return the memory available to this process, by system, container and process limit; None where none is known."""
    known = (_available_in_system(meminfo), _available_in_container(cgroup), _available_in_process())
    return min((value for value in known if value is not None), default=None)


def _available_in_system(meminfo: Path) -> int | None:
    with suppress(OSError, ValueError):
        if found := re.search(r"^MemAvailable:\s*(\d+)", meminfo.read_text(), re.MULTILINE):
            return int(found[1]) * KIB
    with suppress(AttributeError, OSError, ValueError):  # what is free is not reported: the installed memory counts
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _available_in_container(cgroup: Path) -> int | None:
    for limit, usage in CGROUP_FILES:
        with suppress(OSError, ValueError):  # absent, or "max": no limit
            return max(int((cgroup / limit).read_text()) - int((cgroup / usage).read_text()), 0)
    return None


def _available_in_process() -> int | None:
    with suppress(ImportError, OSError, ValueError):  # other systems have no such limit
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        return None if limit == resource.RLIM_INFINITY else max(limit - used, 0)
    return None

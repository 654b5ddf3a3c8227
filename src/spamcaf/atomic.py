"""Writing files and folders whole or not at all: written elsewhere, synced, then renamed into place.

What a killed process leaves is removed by the next save of the same name. Its temporary names tell host and process.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import platform
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there replaces `path` when the block ends well.

    Works for files and folders. If the block raises, or the process is killed, the old content of `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(path)
    temporary = path.with_name(f".{path.stem}.{_own_mark()}.tmp{path.suffix}")
    try:
        yield temporary
        for file in [temporary] if temporary.is_file() else [p for p in temporary.rglob("*") if p.is_file()]:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        _move(temporary, path)
    finally:
        _remove(temporary)


def remove_left_over(path: Path) -> None:
    """Remove what killed processes of this host left of saves of `path`; a folder that had stepped aside comes back."""
    name = glob.escape(path.stem), glob.escape(path.suffix)
    for left in path.parent.glob(f".{name[0]}{name[1]}.*.old"):
        if _is_dead(left) and not path.exists():
            os.replace(left, path)
    for left in (*path.parent.glob(f".{name[0]}.*.tmp{name[1]}"), *path.parent.glob(f".{name[0]}{name[1]}.*.old")):
        if _is_dead(left):
            _remove(left)


def _own_mark() -> str:
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _host() -> str:
    """Return a hash of the machine, and of the container whose process numbers count, where there is one."""
    namespace = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _is_dead(left: Path) -> bool:
    """Tell whether the process that made a temporary path is gone; not where another host made it."""
    mark = re.search(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(?:tmp|old)", left.name)
    if mark is None or mark[1] != _host() or sys.platform == "win32":
        return False
    try:
        os.kill(int(mark[2]), 0)  # signal 0 asks only whether there is such a process
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    if _exchange(temporary, path):  # `temporary` is the old folder now
        return
    # otherwise the old folder steps aside first, and comes back if the move fails
    aside = path.with_name(f".{path.name}.{_own_mark()}.old")
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two paths in one step; False where system or file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0

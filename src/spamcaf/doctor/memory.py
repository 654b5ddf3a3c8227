"""How much memory this process may still take."""

from __future__ import annotations

import os
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and usage of version 2 and of version 1."""


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return the memory that is left: the system's or the container's, whichever is less; None where neither is said.

    Where the system does not say what is free, it is all that is built in.
    """
    system = _of_system(meminfo)
    container = _of_container(cgroup)
    return min((value for value in (system, container) if value is not None), default=None)


def _of_system(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return _built_in()


def _built_in() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container(cgroup: Path) -> int | None:
    for limit, usage in CGROUP_FILES:
        try:
            return max(int((cgroup / limit).read_text()) - int((cgroup / usage).read_text()), 0)
        except (OSError, ValueError):  # absent, or "max": no limit
            continue
    return None

"""Processes of a test: which of a session are alive, and their end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def members(session: int) -> list[int]:
    """Return the processes of a session that are alive, not only waiting for their parent to collect them."""
    found = []
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def kill_session(session: int) -> None:
    """Kill all processes of a session, also those that they start meanwhile, and wait for their end."""
    while alive := members(session):
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)

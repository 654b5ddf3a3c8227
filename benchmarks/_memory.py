"""Time and memory of a piece of work."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

MIB = 1024**2
EVERY_S = 0.01


def resident_mib() -> float:
    """Return this process's resident memory, 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB if statm.is_file() else 0.0


class Watch:
    """Context: what is done inside took `seconds` of wall time and `cpu_seconds` of all threads.

    `mib` is its peak of resident memory over what was there before.
    """

    def __enter__(self) -> Self:
        self._before = self._peak = resident_mib()
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        self._start, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _sample(self) -> None:
        while not self._over.wait(EVERY_S):
            self._peak = max(self._peak, resident_mib())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._start, time.process_time() - self._cpu
        self._over.set()
        self._sampler.join()
        self.mib = max(self._peak, resident_mib()) - self._before

"""Progress of long work: a bar on a terminal, a line per tenth in a log; sizes and times in words."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Self

logger = logging.getLogger(__name__)

QUIET_BYTES = 20_000_000  # smaller files get no lines: they are there before anyone would read them
MINUTE, HOUR = 60, 3600


class Progress:
    """Count what is done of a long piece of work; use it as a context manager.

    Parameters
    ----------
    total : units of the whole work; None where unknown, which gives a bar without end and no lines
    unit : name of what is counted, in the plural ("sites"); of bytes the size itself is written
    describe : what the bar and each line begin with
    is_bytes : small files get no lines, and the last tenth has none: its end is the caller's
    start : units that were done before; they count as done, but not for the speed
    """

    def __init__(self, total: int | None, unit: str, describe: str, *, is_bytes: bool = False, start: int = 0) -> None:
        self._total, self._unit, self._describe, self._is_bytes = total, unit, describe, is_bytes
        self._start = self._done = start
        self._since = time.perf_counter()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from tqdm.auto import tqdm

            shown = {"desc": self._describe, "leave": not self._is_bytes, "smoothing": 0.1}
            unit = {"unit": "B" if self._is_bytes else f" {self._unit}", "unit_scale": self._is_bytes}
            self._bar = tqdm(total=self._total, initial=self._start, **shown, **unit)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def advance(self, n: int) -> None:
        """Count `n` units more."""
        before, self._done = self._tenth, self._done + n
        if self._bar is not None:
            self._bar.update(n)
        elif self._tenth > before:
            self._log()

    def _log(self) -> None:
        total = self._total or 0
        if self._is_bytes and not (total >= QUIET_BYTES and self._done < total):
            return
        speed = (self._done - self._start) / max(time.perf_counter() - self._since, 1e-9)
        left = "" if self._done >= total else f", about {seconds_in_words((total - self._done) / speed)} left"
        numbers = [f"{self._done}", f"{total} {self._unit}", f"{speed:.1f}"]
        if self._is_bytes:
            numbers = [bytes_in_words(n_bytes) for n_bytes in (self._done, total, speed)]
        logger.info("%s: %s of %s, %s per second%s", self._describe, *numbers, left)

    @property
    def _tenth(self) -> int:
        return 10 * self._done // self._total if self._total else 0


def bytes_in_words(n_bytes: float) -> str:
    """Return a size in GB, MB, kB or B (powers of 1000): 12.3 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def seconds_in_words(seconds: float) -> str:
    """Return a time in s, min or h: 119 s, 10 min, 2.5 h."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"

"""How far the sites are: a bar on a terminal, a line per tenth in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Self

logger = logging.getLogger(__name__)

MINUTE, HOUR = 60, 3600


class SiteProgress:
    """Counts sites; says how many are done, sites per second and the time left."""

    def __init__(self, what: str, n_total: int, n_done: int) -> None:
        """Begin at `n_done` of `n_total`: what was stored already counts as done, but not for the speed."""
        self._what, self._total, self._first, self._done = what, n_total, n_done, n_done
        self._since = time.perf_counter()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, initial=self._done, desc=self._what, unit=self._what, smoothing=0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, n_sites: int) -> None:
        """Count `n_sites` more."""
        before, self._done = self._tenth, self._done + n_sites
        if self._bar is not None:
            self._bar.update(n_sites)
        elif self._tenth > before:
            seconds = max(time.perf_counter() - self._since, 1e-9)
            speed = (self._done - self._first) / seconds
            left = "" if self._done >= self._total else f", about {in_words((self._total - self._done) / speed)} left"
            logger.info("%d of %d %s, %.1f per second%s", self._done, self._total, self._what, speed, left)

    @property
    def _tenth(self) -> int:
        return 10 * self._done // self._total if self._total else 0


def in_words(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"

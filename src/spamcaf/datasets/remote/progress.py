"""How far a download is: a bar on a terminal, a line per tenth of a large file in a log."""

from __future__ import annotations

import logging
import sys
from typing import Any

from spamcaf.datasets.remote.sizes import in_words

logger = logging.getLogger(__name__)

LARGE = 20_000_000
"""Bytes; smaller files get no lines between their first and their last."""


class Progress:
    """What pooch's downloader calls for every piece: `total`, `update`, `reset` and `close` are its names."""

    def __init__(self, name: str) -> None:
        self._name, self._n, self._whole = name, 0, 0
        self._bar: Any = None
        self.total = 0  # set by pooch to the length of the answer, which is the rest only

    def start(self, at: int, whole: int | None) -> None:
        """Show a file of `whole` bytes (None: unknown) of which `at` are there."""
        from tqdm.auto import tqdm

        self._n, self._whole = at, whole or 0
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=whole, initial=at, desc=self._name, unit="B", unit_scale=True, unit_divisor=1000, leave=False
            )

    def update(self, n: int) -> None:
        """Count `n` bytes more."""
        before, self._n = self._tenth, self._n + n
        if self._bar is not None:
            self._bar.update(n)
        elif self._whole >= LARGE and before < self._tenth < 10:  # noqa: PLR2004  the last tenth has its own line
            logger.info("%s: %d0 %% of %s", self._name, self._tenth, in_words(self._whole))

    def reset(self) -> None:
        """Do nothing: pooch counts whole pieces and corrects itself at the end, which a finished bar needs not."""

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @property
    def _tenth(self) -> int:
        return 10 * self._n // self._whole if self._whole else 0

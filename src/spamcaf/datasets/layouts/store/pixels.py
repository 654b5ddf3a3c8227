"""Pixels of an image in a SpatialData store, read window by window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError, is_fault_of_ours

if TYPE_CHECKING:
    from dask.array import Array
    from numpy.typing import NDArray

SAMPLE_PX = 256


@dataclass(frozen=True)
class DaskPixels:
    """Pixels of a lazy array (channel, row, column), three channels of uint8; `name` is said in errors."""

    array: Array
    name: str
    identity: str

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.array.shape[1]), int(self.array.shape[2])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of size, stored description and five windows: an image of gigabytes is not read whole."""
        import hashlib

        rows, columns = self.shape
        digest = hashlib.sha256(f"{self.array.shape}{self.identity}".encode())
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)):
            x0, y0 = int(right * max(columns - SAMPLE_PX, 0)), int(down * max(rows - SAMPLE_PX, 0))
            digest.update(np.ascontiguousarray(self.crop(x0, y0, SAMPLE_PX, SAMPLE_PX)).tobytes())
        return digest.hexdigest()[:16]

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read the window; raise InputError naming the place when the store is damaged there."""
        try:
            window = self.array[:, y0 : y0 + height, x0 : x0 + width].compute(scheduler="synchronous")
        except Exception as error:  # codecs raise errors of many types
            if is_fault_of_ours(error):
                raise
            raise InputError(
                f"{self.name} is damaged near pixel ({x0}, {y0}): {error}",
                "an image that can be decoded everywhere.",
                "Fetch or write the store again.",
            ) from error
        return np.moveaxis(np.asarray(window), 0, -1)

"""The H&E image of a section at full resolution, read in windows: RGB uint8 by contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

GLASS = 255
"""What lies outside the image: white, as glass is."""
STRIP_PX = 1 << 24
"""Pixels read at once for a thumbnail."""


class Pixels(Protocol):
    """Where a slide's pixels come from: a file read lazily, an array, or a simulation."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the full-resolution image."""

    @property
    def fingerprint(self) -> str:
        """A short text that tells this image from others, and from itself after a change."""

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the pixels of a window that lies wholly inside the image, (row, column, 3) RGB.

        May be called from several threads at once.
        """


@dataclass(frozen=True)
class ArrayPixels:
    """Pixels of an image that is already in memory, (row, column, 3) RGB uint8."""

    image: NDArray[np.uint8]
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.image.shape[0], self.image.shape[1]

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the window as a view."""
        return self.image[y0 : y0 + height, x0 : x0 + width]


@dataclass(frozen=True)
class Slide:
    """A full-resolution H&E image; windows may reach beyond its borders.

    `mpp` is the micrometres per pixel that the file itself states, None where it does not or cannot be relied on;
    `reader` and `notes` say who reads it and what was chosen or converted. `reopen` opens the same image in another
    process, where it is in a file. `is_striped` tells that rows are decoded whole: places are best read from top to
    bottom then.
    """

    pixels: Pixels
    name: str
    mpp: float | None = None
    reader: str = ""
    notes: tuple[str, ...] = ()
    reopen: Callable[[], Slide] | None = field(default=None, compare=False, repr=False)
    is_striped: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the way to the file rather than the open file."""
        if self.reopen is not None:
            return self.reopen, ()
        return Slide, (self.pixels, self.name, self.mpp, self.reader, self.notes, None, self.is_striped)

    @property
    def is_portable(self) -> bool:
        """Tell whether another process can have this slide: from its file, or because it is in memory."""
        return self.reopen is not None or isinstance(self.pixels, ArrayPixels)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixels.shape

    @property
    def fingerprint(self) -> str:
        """A short text that tells this image from others, and from itself after a change."""
        return self.pixels.fingerprint

    def read(self, x0: int, y0: int, width: int, height: int) -> tuple[NDArray[np.uint8], int]:
        """Return the window with its upper left corner at pixel (x0, y0), and how many of its pixels are padding.

        (row, column, 3) RGB uint8; what lies outside the image is white.
        """
        rows, columns = self.shape
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x0 + width, columns), min(y0 + height, rows)
        if left == x0 and top == y0 and right == x0 + width and bottom == y0 + height:
            return self.pixels.crop(x0, y0, width, height), 0
        window = np.full((height, width, 3), GLASS, np.uint8)
        if right <= left or bottom <= top:
            return window, width * height
        inside = self.pixels.crop(left, top, right - left, bottom - top)
        window[top - y0 : bottom - y0, left - x0 : right - x0] = inside
        return window, width * height - inside.shape[0] * inside.shape[1]

    def thumbnail(self, px_per_thumbnail_px: float, strip: int = 1024) -> NDArray[np.uint8]:
        """Return the image shrunk by `px_per_thumbnail_px` (>= 1), read strip by strip so that memory stays bounded."""
        from PIL import Image

        rows, columns = self.shape
        height, width = max(round(rows / px_per_thumbnail_px), 1), max(round(columns / px_per_thumbnail_px), 1)
        out = np.empty((height, width, 3), np.uint8)
        strip = min(strip, max(STRIP_PX // columns, 1))
        step = max(int(strip / px_per_thumbnail_px), 1)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            y0, y1 = round(top * rows / height), round(bottom * rows / height)
            window = Image.fromarray(np.ascontiguousarray(self.pixels.crop(0, y0, columns, y1 - y0)))
            out[top:bottom] = np.asarray(window.resize((width, bottom - top), Image.Resampling.BOX))
        return out

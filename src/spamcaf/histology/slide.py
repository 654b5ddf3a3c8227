"""The H&E image of a section at full resolution: RGB uint8, stained tissue on bright ground, read in windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError

# Thresholds of the checks below; of 255 where they are gray levels.
BLACK, BLACK_SHARE = 50, 0.5
"""Fluorescence leaves its ground darker than this in every channel; the darkest hematoxylin does not."""
LIT, LIT_BALANCE, LIT_SHARE = 75, 0.25, 0.5
"""A scan on black padding is no fluorescence: most of what is not black is seen in transmitted light, that is bright in
the mean of its channels, and with some light in each (the darkest against the brightest). Dim sections without glass
and brown ones pass by both; one fluorescent colour or two fail by the balance, faint glow of all by the mean."""
COLOURLESS, SMOOTHING_PX = 4, 2
"""Pixels whose channels lie closer together, once smoothed, are gray up to noise. A section that has lost nine tenths
of its contrast still keeps 5 to 10."""
COLOURED_SHARE = 0.001
"""A biopsy of a few square millimetres on a whole slide covers more."""
INVERTED = 0.5
"""Stain takes light away, so the brightest pixels have the least colour: on real sections brightness and colour
correlate with -0.2 to -0.9, and with as much above 0 once the image is inverted."""
DARK, DARK_SHARE = 30, 0.1
"""What was glass is then black; a brown slide without glass is not."""
LIGHT_SHARE, LIGHT_COLOUR = 0.01, 0.2
"""What was stained is then brightest, and coloured; the glass around heavily stained tissue is not."""
PADDING = 4
"""Scanners fill up with black, no brighter than this."""
GLASS = 255
"""What lies outside the image: white, as glass is."""
STRIP_PX = 1 << 24
"""Pixels read at once for a thumbnail."""


def require_h_and_e(thumbnail: NDArray[np.uint8]) -> None:
    """Refuse an image that cannot be stained tissue seen in bright light; what passes need not be H&E.

    Parameters
    ----------
    thumbnail
        (row, column, 3) RGB uint8.

    Raises
    ------
    InputError
        For an image of one colour, without colour, inverted, or on black ground as fluorescence is.
    """
    if not np.ptp(thumbnail, axis=(0, 1)).any():
        raise InputError("an image of one colour.", "stained tissue on glass.", "Check that this is the H&E image.")
    black_share = float((thumbnail.max(axis=2) < BLACK).mean())
    if black_share > BLACK_SHARE and _lit_share(thumbnail) < LIT_SHARE:
        raise InputError(
            f"an image that is black over {black_share:.0%} of its area, as fluorescence is.",
            "stained tissue on bright glass.",
            "Give the H&E image; fluorescence cannot be used.",
        )
    if _coloured_share(thumbnail) < COLOURED_SHARE:
        raise InputError(
            "an image without colour: red, green and blue are equal all over it.",
            "tissue stained with hematoxylin and eosin, in colour.",
            "Give the colour image; grayscale cannot be used.",
        )
    if _is_inverted(thumbnail):
        raise InputError(
            "an image that is the more coloured the brighter it is, as an inverted image or fluorescence is.",
            "stained tissue on bright, colourless glass.",
            "Give the H&E image with the colours of the microscope.",
        )


def _lit_share(thumbnail: NDArray[np.uint8]) -> float:
    """Return the share of pixels that look as in transmitted light, among those that are not black."""
    bright = thumbnail[thumbnail.max(axis=2) >= BLACK]
    is_lit = (bright.mean(axis=1) > LIT) & (bright.min(axis=1) > LIT_BALANCE * bright.max(axis=1))
    return float(is_lit.mean()) if len(bright) else 0.0


def _coloured_share(thumbnail: NDArray[np.uint8]) -> float:
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(thumbnail.astype(np.float32), (SMOOTHING_PX, SMOOTHING_PX, 0))
    return float((np.ptp(smooth, axis=2) >= COLOURLESS).mean())


def _is_inverted(thumbnail: NDArray[np.uint8]) -> bool:
    """Return whether bright pixels are the coloured ones and a good part is black, padding aside."""
    pixels = thumbnail[thumbnail.max(axis=2) > PADDING].astype(np.float32)
    brightness, colour = pixels.mean(axis=1), np.ptp(pixels, axis=1)
    if len(pixels) < 2 or brightness.std() == 0 or colour.std() == 0:  # noqa: PLR2004
        return False
    is_dark = np.quantile(brightness, DARK_SHARE) < DARK
    brightest = brightness >= np.quantile(brightness, 1 - LIGHT_SHARE)
    is_coloured = colour[brightest].mean() > LIGHT_COLOUR * brightness[brightest].mean()
    return bool(is_dark and is_coloured and np.corrcoef(brightness, colour)[0, 1] > INVERTED)


class Pixels(Protocol):
    """Source of a slide's pixels: a file read lazily, or an array."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the full-resolution image."""

    @property
    def fingerprint(self) -> str:
        """Short text that differs between images, and between an image before and after a change."""

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the pixels of a window that lies wholly inside the image, (row, column, 3) RGB; thread-safe."""


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
    """A full-resolution H&E image; windows may reach beyond its borders."""

    pixels: Pixels
    name: str  # of the file, for messages
    mpp: float | None = None  # micrometres per pixel as the file itself states them, None where it does not
    reader: str = ""  # library that reads it
    notes: tuple[str, ...] = ()  # what was chosen or converted
    reopen: Callable[[], Slide] | None = field(default=None, compare=False, repr=False)  # from the file, elsewhere
    is_striped: bool = False  # rows are decoded whole, so that windows are best read from top to bottom

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the way to the file rather than the open file."""
        if self.reopen is not None:
            return self.reopen, ()
        return Slide, (self.pixels, self.name, self.mpp, self.reader, self.notes, None, self.is_striped)

    @property
    def is_portable(self) -> bool:
        """Whether another process can have this slide: from its file, or because it is in memory."""
        return self.reopen is not None or isinstance(self.pixels, ArrayPixels)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixels.shape

    @property
    def fingerprint(self) -> str:
        """As of `Pixels`."""
        return self.pixels.fingerprint

    def read(self, x0: int, y0: int, width: int, height: int) -> tuple[NDArray[np.uint8], int]:
        """Return the window from pixel (x0, y0) on, (row, column, 3), and how many of its pixels are outside: white."""
        rows, columns = self.shape
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x0 + width, columns), min(y0 + height, rows)
        if (left, top, right, bottom) == (x0, y0, x0 + width, y0 + height):
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
        step = max(int(min(strip, max(STRIP_PX // columns, 1)) / px_per_thumbnail_px), 1)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            y0, y1 = round(top * rows / height), round(bottom * rows / height)
            window = Image.fromarray(np.ascontiguousarray(self.pixels.crop(0, y0, columns, y1 - y0)))
            out[top:bottom] = np.asarray(window.resize((width, bottom - top), Image.Resampling.BOX))
        return out

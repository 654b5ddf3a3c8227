"""From the samples of a file to RGB uint8: depth, transparency and luma are converted window by window."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.histology.slide import GLASS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamcaf.datasets.slides.pixels import Raster

N_RGB = 3
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners really use in a file of 16."""
SAMPLES_ACROSS, SAMPLE_PX = 16, 64
BLOCK_PX = 1 << 20
"""Pixels converted at once, so that the temporaries stay small beside the window."""


class Alpha(StrEnum):
    """What a fourth channel says: NONE where there is none, or where it is not stated to be transparency."""

    NONE = "none"
    STRAIGHT = "straight"
    PREMULTIPLIED = "premultiplied"


@dataclass(frozen=True)
class Conversion:
    """How samples become RGB uint8.

    `white` is the sample value that becomes 255, `opaque` the one of full alpha; both are 255 for 8-bit samples.
    `is_ycbcr` marks samples that are luma and two chroma differences instead of colours.
    """

    alpha: Alpha = Alpha.NONE
    is_ycbcr: bool = False
    white: int = GLASS
    opaque: int = GLASS

    def to_rgb(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert (row, column, channel) samples to (row, column, 3)."""
        if samples.dtype == np.uint8 and self.alpha is Alpha.NONE and not self.is_ycbcr:
            return samples if samples.shape[2] == N_RGB else np.ascontiguousarray(samples[..., :N_RGB])
        height, width = samples.shape[:2]
        rgb = np.empty((height, width, N_RGB), np.uint8)
        step = max(BLOCK_PX // max(width, 1), 1)
        for top in range(0, height, step):
            rgb[top : top + step] = self._convert(samples[top : top + step])
        return rgb

    def _convert(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        colours: NDArray[np.uint8] = _to_8_bits(samples[..., :N_RGB], self.white)
        if self.is_ycbcr:
            colours = _from_ycbcr(colours)
        if self.alpha is Alpha.NONE:
            return colours
        opacity = _to_8_bits(samples[..., N_RGB:], self.opaque)
        if opacity.min() == GLASS:
            return colours
        alpha = opacity.astype(np.float32) / GLASS
        seen = colours if self.alpha is Alpha.PREMULTIPLIED else colours * alpha
        return np.clip(np.rint(seen + GLASS * (1 - alpha)), 0, GLASS).astype(np.uint8)


def conversion_of(raster: Raster, alpha: Alpha = Alpha.NONE, is_ycbcr: bool = False) -> tuple[Conversion, list[str]]:
    """Return the conversion that a raster needs, and what to say of it.

    The depth of 16-bit samples is told from windows spread over the image.
    """
    notes = [] if alpha is Alpha.NONE else ["transparency laid over white"]
    if alpha is Alpha.NONE and raster.shape[2] > N_RGB:
        notes.append("its fourth channel, whose meaning it does not state, is ignored")
    notes += ["luma and chroma converted to RGB"] if is_ycbcr else []
    if raster.dtype == np.uint8:
        return Conversion(alpha, is_ycbcr), notes
    brightest = _brightest(raster)
    white = _full_scale(int(brightest[:N_RGB].max()))
    opaque = _full_scale(int(brightest[N_RGB:].max(initial=0)))
    return Conversion(alpha, is_ycbcr, white, opaque), [f"16-bit values 0 to {white} rescaled to 0 to {GLASS}", *notes]


def _brightest(raster: Raster) -> NDArray[Any]:
    """Return the largest value of each channel in windows spread evenly over the image."""
    rows, columns, channels = raster.shape
    height, width = min(SAMPLE_PX, rows), min(SAMPLE_PX, columns)
    brightest = np.zeros(channels, raster.dtype)
    for y0 in np.linspace(0, rows - height, SAMPLES_ACROSS).astype(int):
        for x0 in np.linspace(0, columns - width, SAMPLES_ACROSS).astype(int):
            window = raster.read(int(x0), int(y0), width, height)
            brightest = np.maximum(brightest, window.max(axis=(0, 1)))
    return brightest


def _full_scale(value: int) -> int:
    return next(scale for bits in DEPTHS if (scale := 2**bits - 1) >= value)


def _to_8_bits(samples: NDArray[Any], white: int) -> NDArray[np.uint8]:
    if samples.dtype == np.uint8:
        return samples
    return np.minimum((samples.astype(np.uint32) * GLASS + white // 2) // white, GLASS).astype(np.uint8)


def _from_ycbcr(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = samples.shape[:2]
    return np.asarray(Image.frombytes("YCbCr", (width, height), samples.tobytes()).convert("RGB"))

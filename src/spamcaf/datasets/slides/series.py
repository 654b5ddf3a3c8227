"""Which image of a TIFF is the slide: the largest, if its axes and channels are those of a colour picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.slides.channels import N_RGB
from spamcaf.datasets.slides.pixels import damaged, not_h_and_e
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

N_RGBA = 4
MINISBLACK, RGB, YCBCR = 1, 2, 6
REFUSED = {0: "grayscale", 3: "a palette image", 4: "a mask", 5: "a CMYK image"}
DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def choose_series(path: Path, tiff: TiffFile) -> tuple[TiffPageSeries, list[str]]:
    """Return the largest image, first level, and what to say of the choice; raise InputError unless it is RGB.

    Labels and macro images are smaller. A smaller RGB image is never taken in place of a larger one that is not.
    """
    series = [s for s in tiff.series if _area(s) > 0]
    if not series:
        raise damaged(path, "no image in it")
    largest = max(_area(s) for s in series)
    candidates = [s for s in series if _area(s) == largest]
    pictures = [s for s in candidates if _refusal(s) is None]
    if not pictures:
        raise not_h_and_e(path, str(_refusal(candidates[0])))
    if len(pictures) > 1:
        raise InputError(
            f"{len(pictures)} colour images of the same size in {path.name}.",
            "one that is the largest.",
            "Export the H&E image alone.",
        )
    notes = [] if len(series) == 1 else [f"the largest of {len(series)} images"]
    if pictures[0].keyframe.photometric == MINISBLACK:
        notes.append("its three channels, declared gray, are taken as red, green and blue")
    return pictures[0], notes


def sizes_of(series: TiffPageSeries) -> list[tuple[str, int]]:
    """Return the axes of a series with their lengths. Axes of length 1 may be left out, save Y and X."""
    return list(zip(series.axes, series.shape, strict=True))


def _area(series: TiffPageSeries) -> int:
    sizes = dict(sizes_of(series))
    return int(sizes.get("Y", 0)) * int(sizes.get("X", 0))


def _refusal(series: TiffPageSeries) -> str | None:
    """Return why a series cannot be a colour picture, or None: what it is, to follow '<name> is'."""
    page = series.keyframe
    sizes = sizes_of(series)
    said = f"axes {series.axes}, shape {tuple(series.shape)}"
    if series.dtype not in DTYPES:
        return f"of {series.dtype} values"
    if page.photometric in REFUSED:
        return REFUSED[page.photometric]
    if page.photometric not in {MINISBLACK, RGB, YCBCR}:
        return f"in the colour space {getattr(page.photometric, 'name', page.photometric)}"
    if any(n > 1 for axis, n in sizes if axis not in "YXSC") or page.shaped[1] > 1:
        return f"a stack of images ({said}), whose axes do not say that they are colours"
    return _refusal_of_channels(series, said)


def _refusal_of_channels(series: TiffPageSeries, said: str) -> str | None:
    page = series.keyframe
    n_samples, n_pages = page.samplesperpixel, len(series)
    sizes = dict(sizes_of(series))
    n_channels = int(sizes.get("S", 1)) * int(sizes.get("C", 1))
    if n_channels == 1:
        return "grayscale"
    if n_channels == N_RGBA and n_samples == N_RGBA and page.photometric == RGB and len(page.extrasamples) <= 1:
        return None
    if n_channels != N_RGB:
        return f"an image of {n_channels} channels ({said}), such as fluorescence"
    if n_pages not in {1, n_channels // n_samples}:
        return f"an image in {n_pages} parts ({said})"
    return None

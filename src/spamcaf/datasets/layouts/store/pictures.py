"""The pictures of a SpatialData: the full-resolution image as a slide, and the thumbnails."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.layouts.beside import begins_with
from spamcaf.datasets.layouts.library import N_RGB, thumbnail
from spamcaf.datasets.layouts.store.elements import full_level
from spamcaf.datasets.layouts.store.open import missing_chunks
from spamcaf.datasets.layouts.store.pixels import DaskPixels
from spamcaf.datasets.layouts.store.placement import scale_of, to_pixels
from spamcaf.errors import InputError
from spamcaf.histology.slide import Slide
from spamcaf.names import ScaleFactor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

KINDS = {"hires": ScaleFactor.HIRES.value, "lowres": ScaleFactor.LOWRES.value}
RGB = ("r", "g", "b")
STAINS = ("dapi", "hoechst")
RECORDS = ("zarr.json", ".zattrs")
MAX_SHEAR = 1e-3
MAX_SHIFT_PX = 1.0


def slide_of(data: SpatialData, name: str, store: Path) -> Slide:
    """Return the image element `name` as a lazy slide; raise InputError unless it is 8-bit RGB."""
    level = full_level(data.images[name])
    channels = [str(channel).lower() for channel in level.coords["c"].values]
    is_stained = any(stain in channel for channel in channels for stain in STAINS)
    if level.shape[0] != N_RGB or level.dtype != np.uint8 or is_stained:
        raise InputError(
            f"image {name} of {store.name} with channels {', '.join(channels[:8])}, {level.dtype}.",
            "an H&E image: three channels of 8 bits, red, green and blue.",
            "Add the H&E image to the store, or name it: --params image=<file>. Fluorescence cannot be used.",
        )
    _warn_of_gaps(store / "images" / name)
    array = level.data
    if set(channels) == set(RGB):
        array = array[[channels.index(channel) for channel in RGB]]
    return Slide(DaskPixels(array, f"{store.name}/images/{name}", _record(store / "images" / name)), name)


def thumbnails_of(
    data: SpatialData, region: str, matrix: NDArray[np.float64], source: str
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, float]]:
    """Return the thumbnails of the shapes `region`, and the scale factor of each.

    `matrix` (3, 3) maps the shapes to full-resolution pixels. A thumbnail that is not the image shrunk is left out.
    """
    images: dict[str, NDArray[np.uint8]] = {}
    factors: dict[str, float] = {}
    for kind, key in KINDS.items():
        name = _thumbnail_name(data, f"_{kind}_image", region)
        scale = None if name is None else _scale(data.shapes[region], data.images[name], matrix, source)
        if name is None or scale is None:
            continue
        picture = thumbnail(np.moveaxis(full_level(data.images[name]).to_numpy(), 0, -1), f"{name} of {source}")
        if picture is not None:
            images[kind], factors[key] = picture, scale
    return images, factors


def _thumbnail_name(data: SpatialData, suffix: str, region: str) -> str | None:
    names = [name for name in data.images if name.endswith(suffix)]
    own = [name for name in names if begins_with(region, name.removesuffix(suffix))]
    found = own if len(names) > 1 else names
    return found[0] if len(found) == 1 else None


def _scale(shapes: Any, image: Any, matrix: NDArray[np.float64], source: str) -> float | None:  # noqa: ANN401  elements
    """Return thumbnail pixels per full-resolution pixel; None where one is not the other shrunk."""
    try:
        shrink = to_pixels(shapes, image, source) @ np.linalg.inv(matrix)
    except InputError as error:
        logger.warning("maps are drawn without a thumbnail: %s", error)
        return None
    scale = scale_of(shrink)
    skewed = np.abs(shrink[:2, :2] - scale * np.eye(2)).max() > MAX_SHEAR * scale
    return None if skewed or np.abs(shrink[:2, 2]).max() > MAX_SHIFT_PX else scale


def _warn_of_gaps(image: Path) -> None:
    import zarr

    largest = max((array for _, array in zarr.open_group(image, mode="r").arrays()), key=lambda array: array.size)
    n_missing, n = missing_chunks(largest)
    if n_missing:
        logger.warning("%d of %d chunks of %s are not stored: black there, or lost in copying", n_missing, n, image)


def _record(image: Path) -> str:
    """Return how the store describes the image."""
    return "".join((image / name).read_text(encoding="utf-8") for name in RECORDS if (image / name).is_file())

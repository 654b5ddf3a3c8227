"""What the plainest look at a stain tells of a site: mean and deviation of red, green and blue, tile by tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import TILES_ACROSS, WindowGeometry

N_COLOURS = 6 * TILES_ACROSS**2


def tile_colours(slide: Slide, xy_px: NDArray[np.float64], geometry: WindowGeometry) -> NDArray[np.float32]:
    """Return (site, 54): of each of the 3 x 3 tiles, row by row, the mean of R, G, B and their standard deviation.

    `xy_px` (site, 2) are full-resolution pixels. Nothing outside the image is left out: it counts as white glass.
    """
    colours = np.empty((len(xy_px), N_COLOURS), np.float32)
    for row, (x0, y0) in zip(colours, geometry.corners(xy_px).tolist(), strict=True):
        window, _ = slide.read(x0, y0, geometry.window_px, geometry.window_px)
        tiles = window.reshape(TILES_ACROSS, geometry.tile_px, TILES_ACROSS, geometry.tile_px, 3)
        statistics = [tiles.mean(axis=(1, 3)), tiles.std(axis=(1, 3))]  # (tile row, tile column, channel) each
        row[:] = np.concatenate(statistics, axis=-1).ravel()
    return colours

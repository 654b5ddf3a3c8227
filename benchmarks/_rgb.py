"""What the plainest look at a stain tells: mean and deviation of red, green and blue, tile by tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import TILES_ACROSS, WindowGeometry

ALPHAS = np.logspace(-2, 6, 33)


def rgb_statistics(slide: Slide, xy_px: NDArray[np.float64], geometry: WindowGeometry) -> NDArray[np.float32]:
    """Return (site, 54): of each of the 3 x 3 tiles, row by row, the mean of R, G, B and their standard deviation."""
    return np.stack([_of_window(slide, x0, y0, geometry) for x0, y0 in geometry.corners(xy_px).tolist()])


def _of_window(slide: Slide, x0: int, y0: int, geometry: WindowGeometry) -> NDArray[np.float32]:
    window, _ = slide.read(x0, y0, geometry.window_px, geometry.window_px)
    tiles = [tile for row in np.array_split(window, TILES_ACROSS) for tile in np.array_split(row, TILES_ACROSS, axis=1)]
    return np.concatenate([np.append(t.mean(axis=(0, 1)), t.std(axis=(0, 1))) for t in tiles]).astype(np.float32)


def rgb_ridge(
    rgb: NDArray[np.float32], expression: NDArray[np.float32], at: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (site, gene) by ridge regression on standardised statistics; alpha by leave-one-out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(rgb.astype(np.float64), expression)
    found: NDArray[np.float32] = model.predict(at.astype(np.float64)).astype(np.float32)
    return found

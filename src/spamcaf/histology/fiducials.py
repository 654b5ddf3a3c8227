"""The fiducial frame that is printed around the capture area of a Visium array, found in the image."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

DOT_UM = 105.0
"""Diameter of a printed dot."""
ROWS_UM = (
    (-430.0, 56.0, 150.2, 43), (-287.0, 132.0, 150.2, 42), (-147.0, 56.0, 150.2, 43),
    (6817.0, 56.0, 150.2, 42), (6953.0, 132.0, 300.4, 21), (7093.0, 56.0, 150.2, 43),
)  # fmt: skip
"""Rows of dots above and below a 6.5 mm array: their y, the first x, the step and the number of dots, in micrometres
from the spot of row 0 and column 0, columns to the right. Measured in the public images of a Visium mouse kidney and of
three DLPFC sections, which agree within 30 um; the clusters of dots in the corners are left out."""
COLUMNS_UM = (
    (-554.0, 106.0, 258.5, 25), (-472.0, 229.5, 258.5, 24), (-386.0, 106.0, 258.5, 24),
    (-314.0, 229.5, 258.5, 24), (-227.0, 106.0, 258.5, 25), (-150.0, 229.5, 258.5, 25),
    (6505.0, 106.0, 258.5, 26), (6582.0, 229.5, 258.5, 25), (6663.0, 106.0, 258.5, 26),
    (6823.0, 106.0, 258.5, 26), (6902.0, 229.5, 258.5, 25),
)  # fmt: skip
"""Columns of dots left and right of the array: their x, the first y, the step and the number of dots."""
ARRAY_UM = (6350.0, 6668.0)
"""Width and height between the outermost spots: 128 columns of half a pitch, 78 rows."""
INNER_UM = 75.0
"""How far beyond the outermost spots the inside of the frame reaches; the first dots begin at 95 um."""

WORKING_UM = 24.0
"""Micrometres per pixel at which the frame is looked for: a dot is four pixels wide."""
CLEAR_CONTRAST = 4.0
"""Gray levels by which a dot is darker than its surroundings; more counts little more, since tissue is darker still."""
TURNS_DEG = tuple(quarter + degrees for quarter in (0, 90) for degrees in range(-3, 4))
"""Turns tried. The pattern is nearly symmetric: a frame turned by half, or mirrored, is found by the same ones."""
STRETCHES = (0.985, 1.0, 1.015)
"""How far the micrometres per pixel that are known of an image may be off: 1 % in DLPFC section 151510."""
LEAST_SCORE = 0.3
"""Contrast of dots against the gaps between them, -2 to 2, that makes a frame. The four images named above have 0.8 to
1.4, cut, turned or mirrored 0.5 at least; a mouse brain, three HER2+ tumours and a crop without a frame up to 0.1."""


def find_frames(thumbnail: NDArray[np.uint8], um_per_px: float) -> NDArray[np.float64] | None:
    """Find the fiducial frames that an image shows; several of one slide have one turn and stretch.

    The known pattern of dots is correlated with the image at every pixel by Fourier transform, for each turn and
    stretch: the mean contrast of the dots less that of the gaps between them.

    Parameters
    ----------
    thumbnail
        (row, column, 3) uint8.
    um_per_px
        Micrometres along the side of one of its pixels.

    Returns
    -------
    corners
        (frame, 4, 2), the corners (x, y) of the inside of each frame, thumbnail pixels; None where there is no frame.
    """
    from scipy.fft import next_fast_len, rfft2

    contrast = _dot_contrast(thumbnail, um_per_px)
    # padded by the size of the pattern, so that it does not wrap around
    size = [next_fast_len(n + round(1.3 * max(ARRAY_UM) / WORKING_UM)) for n in contrast.shape]
    spectrum = rfft2(contrast, size)
    best, best_score = None, LEAST_SCORE
    for degrees, stretch in product(TURNS_DEG, STRETCHES):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        to_px = np.array([[cos, sin], [-sin, cos]]) * stretch / WORKING_UM
        scores = _scores(spectrum, size, to_px)
        if scores.max() >= best_score:
            best, best_score = (to_px, scores), float(scores.max())
    if best is None:
        return None
    to_px, scores = best
    half = np.array(ARRAY_UM) / 2 + INNER_UM
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half @ to_px
    middles = _peaks(scores, min(ARRAY_UM) / WORKING_UM)
    return (middles[:, None, :] + corners) * WORKING_UM / um_per_px


def inside_frames(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of a thumbnail of `shape` (rows, columns) lie inside one of the frames of `find_frames`."""
    from skimage.draw import polygon2mask

    return np.any([polygon2mask(shape, frame[:, ::-1]) for frame in corners], axis=0)


def _dot_contrast(thumbnail: NDArray[np.uint8], um_per_px: float) -> NDArray[np.float32]:
    """Return how much darker than their surroundings disks of a dot's size are, -1 to 1, at the working resolution."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    gray = Image.fromarray(thumbnail).convert("L")
    shrink = um_per_px / WORKING_UM
    gray = gray.resize((max(round(gray.width * shrink), 1), max(round(gray.height * shrink), 1)), Image.Resampling.BOX)
    radius = DOT_UM / 2 / WORKING_UM
    wide, narrow = (gaussian_filter(np.asarray(gray, np.float32), r, mode="nearest") for r in (radius, radius / 2))
    return np.tanh((wide - narrow) / CLEAR_CONTRAST)


def _pattern() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the dots and the middles of the gaps between them, (point, 2), micrometres from the array's middle."""

    def points(offset: float, n_fewer: int) -> NDArray[np.float64]:
        rows = [(first + step * (i + offset), y) for y, first, step, n in ROWS_UM for i in range(n - n_fewer)]
        columns = [(x, first + step * (i + offset)) for x, first, step, n in COLUMNS_UM for i in range(n - n_fewer)]
        return np.array(rows + columns) - np.array(ARRAY_UM) / 2

    return points(0.0, 0), points(0.5, 1)


def _scores(spectrum: NDArray[np.complex64], size: list[int], to_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return, for the middle of the pattern at every pixel, the mean contrast of the dots less that of the gaps."""
    from scipy.fft import irfft2, rfft2

    template = np.zeros(size, np.float32)
    for points, weight in zip(_pattern(), (1, -1), strict=True):
        column, row = np.rint(points @ to_px).astype(int).T
        np.add.at(template, (row % size[0], column % size[1]), weight / len(points))
    return irfft2(spectrum * np.conj(rfft2(template)), size)


def _peaks(scores: NDArray[np.float32], apart: float) -> NDArray[np.float64]:
    """Return the pixels (x, y) of the highest scores that lie at least `apart` pixels from each other."""
    scores = scores.copy()
    rows, columns = np.ogrid[: scores.shape[0], : scores.shape[1]]
    peaks = []
    while scores.max() >= LEAST_SCORE:
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        peaks.append((float(column), float(row)))
        scores[np.hypot(rows - row, columns - column) < apart] = 0
    return np.array(peaks)

"""Is this picture stained tissue on a bright ground? Told from its thumbnail, whatever the file says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK = 50
"""Fluorescence leaves its ground darker than this in every channel (of 255); the darkest hematoxylin does not."""
BLACK_SHARE = 0.5
LIT, LIT_BALANCE, LIT_SHARE = 75, 0.25, 0.5
"""A scan on black padding is no fluorescence: most of what is not black is seen in transmitted light, that is bright in
the mean of its channels, and with some light in each (the darkest against the brightest). Dim sections without glass
and brown ones pass by both; one fluorescent colour or two fail by the balance, faint glow of all by the mean."""
COLOURLESS = 4
"""Pixels whose channels lie closer together are gray up to noise. A section that has lost nine tenths of its contrast
still keeps 5 to 10."""
COLOURED_SHARE = 0.001
"""A biopsy of a few square millimetres on a whole slide covers more."""
SMOOTHING_PX = 2


def require_h_and_e(thumbnail: NDArray[np.uint8]) -> None:
    """Raise InputError for a picture, (row, column, 3) RGB, of one colour, without colour, or on a black ground.

    What passes need not be H&E: other stains that are seen in bright light do, too.
    """
    if all(np.ptp(thumbnail[..., channel]) == 0 for channel in range(3)):
        raise InputError("an image of one colour.", "stained tissue on glass.", "Check that this is the H&E image.")
    black = share_of_black(thumbnail)
    if black > BLACK_SHARE and share_of_lit(thumbnail) < LIT_SHARE:
        raise InputError(
            f"an image that is black over {black:.0%} of its area, as fluorescence is.",
            "stained tissue on bright glass.",
            "Give the H&E image; fluorescence cannot be used.",
        )
    if share_of_coloured(thumbnail) < COLOURED_SHARE:
        raise InputError(
            "an image without colour: red, green and blue are equal all over it.",
            "tissue stained with hematoxylin and eosin, in colour.",
            "Give the colour image; grayscale cannot be used.",
        )


def share_of_black(thumbnail: NDArray[np.uint8]) -> float:
    """Return the share of pixels that are near black in every channel."""
    return float((thumbnail.max(axis=2) < BLACK).mean())


def share_of_coloured(thumbnail: NDArray[np.uint8]) -> float:
    """Return the share of pixels whose channels differ by more than noise."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(thumbnail.astype(np.float32), (SMOOTHING_PX, SMOOTHING_PX, 0))
    return float((np.ptp(smooth, axis=2) >= COLOURLESS).mean())


def share_of_lit(thumbnail: NDArray[np.uint8]) -> float:
    """Return the share of pixels that look as in transmitted light, among those that are not black."""
    seen = thumbnail[thumbnail.max(axis=2) >= BLACK]
    if not len(seen):
        return 0.0
    is_lit = (seen.mean(axis=1) > LIT) & (seen.min(axis=1) > LIT_BALANCE * seen.max(axis=1))
    return float(is_lit.mean())

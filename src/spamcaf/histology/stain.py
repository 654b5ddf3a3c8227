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
INVERTED = 0.5
"""Stain takes light away, so the brightest places have the least colour: on real sections brightness and colour
correlate with -0.2 to -0.9, and with as much above 0 once the picture is inverted."""
DARK, DARK_SHARE = 30, 0.1
"""What was glass is then black; a brown slide without glass is not."""
LIGHT_SHARE, LIGHT_COLOUR = 0.01, 0.2
"""What was stained is then brightest, and coloured; the glass around heavily stained tissue is not."""
PADDING = 4
"""Scanners fill up with black."""


def require_h_and_e(thumbnail: NDArray[np.uint8]) -> None:
    """Raise InputError for a picture, (row, column, 3) RGB, of one colour, colourless, inverted or on black ground.

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
    if is_inverted(thumbnail):
        raise InputError(
            "an image that is the more coloured the brighter it is, as an inverted picture or fluorescence is.",
            "stained tissue on bright, colourless glass.",
            "Give the H&E image as the microscope showed it.",
        )


def is_inverted(thumbnail: NDArray[np.uint8]) -> bool:
    """Tell whether light has colour and a good part is black, padding aside: stain does the opposite."""
    seen = thumbnail[thumbnail.max(axis=2) > PADDING].astype(np.float32)
    brightness, colour = seen.mean(axis=1), np.ptp(seen, axis=1)
    if len(seen) < 2 or brightness.std() == 0 or colour.std() == 0:  # noqa: PLR2004
        return False
    is_dark = np.quantile(brightness, DARK_SHARE) < DARK
    brightest = brightness >= np.quantile(brightness, 1 - LIGHT_SHARE)
    is_coloured = colour[brightest].mean() > LIGHT_COLOUR * brightness[brightest].mean()
    return bool(is_dark and is_coloured and np.corrcoef(brightness, colour)[0, 1] > INVERTED)


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

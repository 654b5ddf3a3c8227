"""Do the spots lie inside the image, and has it the size that its thumbnail implies?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import SPATIAL, ScaleFactor

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import SectionSettings

logger = logging.getLogger(__name__)

IMAGE_TOLERANCE_PX = 2
"""How far the image may be from the size that its thumbnail implies, in thumbnail rounding steps."""


def count_outside(xy_px: NDArray[np.float64], image_shape: tuple[int, int]) -> dict[str, int]:
    """Count the spots beyond each side of an image of (rows, columns)."""
    rows, columns = image_shape
    x, y = xy_px.T
    return {
        "left": int((x < 0).sum()),
        "right": int((x >= columns).sum()),
        "top": int((y < 0).sum()),
        "bottom": int((y >= rows).sum()),
    }


def require_image(
    section: AnnData, image_shape: tuple[int, int], settings: SectionSettings, image: str = "the image"
) -> None:
    """Raise InputError when too many spots lie outside the image, or when a thumbnail is of another image.

    Parameters
    ----------
    section
        Its spots in pixels and its small pictures are looked at.
    image_shape
        (rows, columns) of the full-resolution image.
    settings
        Limits; with `trust_image` a thumbnail of another size is warned of only.
    image
        Name of the image's file, for messages.
    """
    xy = section.obsm[SPATIAL]
    rows, columns = image_shape
    is_outside = ((xy < 0) | (xy >= (columns, rows))).any(axis=1)
    if is_outside.mean() > settings.max_outside:
        (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
        raise InputError(
            f"{image} of {columns} x {rows} px, and spots with x from {x0:.0f} to {x1:.0f} and y from {y0:.0f} to "
            f"{y1:.0f}.",
            "spots inside the image.",
            "Image and coordinates do not belong together: give the full-resolution image, not hires or CytAssist "
            "(--params image=<file>), and coordinates in its pixels, not in micrometres.",
        )
    for record in section.uns.get(SPATIAL, {}).values():
        scale = record.get("scalefactors", {}).get(ScaleFactor.HIRES)
        if scale is None or "hires" not in record.get("images", {}):
            continue
        implied = np.array(record["images"]["hires"].shape[:2]) / float(scale)
        if np.abs(implied - image_shape).max() > IMAGE_TOLERANCE_PX / float(scale):
            problem = InputError(
                f"{image} of {columns} x {rows} px, and a thumbnail of one of {implied[1]:.0f} x {implied[0]:.0f} px.",
                "one size.",
                "Give the image that Space Ranger was run on (--params image=<file>); or, if you know that they belong "
                "together: --params section_checks.trust_image=true.",
            )
            if not settings.trust_image:
                raise problem
            logger.warning("trusted all the same (section_checks.trust_image): %s", problem)

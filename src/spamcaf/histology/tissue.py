"""Telling tissue from glass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.stain import require_h_and_e

if TYPE_CHECKING:
    from spamcaf.histology.slide import Slide
    from spamcaf.parameters import TissueSettings


@dataclass(frozen=True)
class Tissue:
    """Where there is tissue.

    `mask` is (row, column) bool; one of its pixels covers `px_per_mask_px` full-resolution pixels. `thumbnail`
    (row, column, 3) uint8 is the image at the same size.
    """

    mask: NDArray[np.bool_]
    thumbnail: NDArray[np.uint8]
    px_per_mask_px: float

    def holds(self, xy_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell for each (x, y) in full-resolution pixels whether it lies on tissue."""
        column, row = np.floor(xy_px / self.px_per_mask_px).astype(int).T
        inside = (row >= 0) & (row < self.mask.shape[0]) & (column >= 0) & (column < self.mask.shape[1])
        held = np.zeros(len(xy_px), bool)
        held[inside] = self.mask[row[inside], column[inside]]
        return held


def find_tissue(slide: Slide, mpp: float, settings: TissueSettings) -> Tissue:
    """Return the tissue mask of an H&E slide: Otsu's threshold on saturation, small pieces and holes removed.

    Saturation tells stained tissue from glass of any brightness; fat and lumina inside the tissue are filled up to
    `min_area_um2`. Raises InputError when nothing on the slide is stained, see `require_h_and_e`.
    """
    from skimage import color, filters, morphology

    scale = max(settings.um_per_px / mpp, 1.0)
    thumbnail = slide.thumbnail(scale)
    require_h_and_e(thumbnail)
    saturation = filters.gaussian(color.rgb2hsv(thumbnail)[..., 1], sigma=2)
    if np.ptp(saturation) < np.finfo(np.float32).eps:
        raise InputError("an image of one colour.", "stained tissue on glass.", "Check that this is the H&E image.")
    mask = saturation > filters.threshold_otsu(saturation)
    area = round(settings.min_area_um2 / (scale * mpp) ** 2)
    mask = morphology.closing(mask, morphology.disk(3))
    mask = morphology.remove_small_holes(mask, max_size=area)
    mask = morphology.remove_small_objects(mask, max_size=area)
    return Tissue(mask, thumbnail, scale)

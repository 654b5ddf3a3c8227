"""Separation of tissue from glass: by colour and texture of the image, and by the spots where they are known."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.fiducials import find_frames, inside_frames
from spamcaf.histology.slide import GLASS, PADDING, Slide, require_h_and_e
from spamcaf.parameters import TissueSettings

logger = logging.getLogger(__name__)

COLOUR_PX, TEXTURE_PX, OUTLINE_PX, CLOSING_PX = 1.0, 3.0, 2, 3
"""Width of the Gaussian windows for colour and texture, how far glass and stain mix at the outline of the stain, and
half the width of gaps that are closed, in mask pixels."""
SMOOTH_SHARE = 0.2
"""Glass is looked for among this share of the pixels, those of least texture."""
GLASS_BIN, GLASS_BIN_SHARE = 2.0, 0.05
"""Width of the colour bins, CIELAB units, and the share of the smooth pixels that makes a bin a candidate for glass."""
LIGHTNESS_WEIGHT = 0.25
"""Weight of lightness against the two colour axes: uneven light and the gray dots of a fiducial frame differ from glass
in lightness alone."""
FLOOR = 0.1
"""Added before a logarithm: differences below it are rounding of 8-bit colours."""
MIN_COLOUR_RATIO, MIN_TEXTURE_RATIO = 10.0, 4.0
"""Median above Otsu's threshold over median below it. Images with tissue and glass have at least 12 in colour and 7 in
texture; crops that lie wholly in tissue up to 8.0 and 2.3 (three DLPFC sections, a mouse kidney and brain, three HER2+
tumours). Where the texture is all alike it is not used; where the colours are too, there is no glass."""
NEAR, CLEAR_VALLEY = float(np.log(1.5)), 0.22
"""So near to the threshold, as a logarithm, a colour is neither glass nor stain; and the most of these, as a share of
the smaller part, that leave a gap between the two: 0.05 to 0.17 in most images, 0.3 to 0.8 where eosin has run out."""
COLOURED_SHARE = 0.8
"""Least share of the rough pixels that must be coloured: on an image with noise, glass may be rougher than tissue."""
HOLE = 0.1  # of a pitch's square: smaller gaps between spots are no gap in the tissue; that of a missing one is larger
CELL, MARGIN, EQUAL = 0.71, 0.25, 0.1
"""In pitches: how far around a spot is taken to be as the spot is (a hexagonal cell reaches 0.58, a square one 0.71),
the rim of the spots' common cells that is left to the image, and by how much the nearer of two spots must be nearer."""


@dataclass(frozen=True)
class Tissue:
    """Mask of the tissue on a slide, and the image at the same size."""

    mask: NDArray[np.bool_]  # (row, column)
    thumbnail: NDArray[np.uint8]  # (row, column, 3) RGB
    px_per_mask_px: float  # full-resolution pixels along the side of a mask pixel

    def holds(self, xy_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether each (x, y) in full-resolution pixels, (point, 2), lies on tissue, (point,)."""
        column, row = np.floor(xy_px / self.px_per_mask_px).astype(int).T
        inside = (row >= 0) & (row < self.mask.shape[0]) & (column >= 0) & (column < self.mask.shape[1])
        held = np.zeros(len(xy_px), bool)
        held[inside] = self.mask[row[inside], column[inside]]
        return held

    def marked_by_spots(
        self, on_tissue_px: NDArray[np.float64], off_tissue_px: NDArray[np.float64], pitch_px: float
    ) -> Tissue:
        """Combine the tissue of the image with that of the spots.

        The cells of spots under tissue are tissue and those of spots off the tissue are glass, but for the rim between
        the two kinds and the outline of the section, where the image decides.

        Parameters
        ----------
        on_tissue_px, off_tissue_px
            (spot, 2), the spots under tissue and those beside it, full-resolution pixels; the second may be empty.
        pitch_px
            Distance of neighbouring spots, full-resolution pixels.
        """
        from scipy.ndimage import distance_transform_edt

        pitch = pitch_px / self.px_per_mask_px
        to_tissue, to_glass = (self._distance_to(xy_px, pitch) for xy_px in (on_tissue_px, off_tissue_px))
        cells = (to_tissue <= CELL) & (to_tissue <= to_glass)
        # eroded by the rim: what is enclosed by spots under tissue stays whole, its outline is left to the image
        to_rim = distance_transform_edt(np.pad(cells, 1, mode="edge"))[1:-1, 1:-1] / pitch
        core = cells & ((to_rim >= MARGIN) | cells.all())  # without a rim there is nothing to measure from
        is_glass = (to_glass <= CELL) & (to_glass < to_tissue - EQUAL)
        mask = (core | self.mask) & ~is_glass
        # a spot's own pixel, where it is as large as the rim
        own = np.floor(on_tissue_px / self.px_per_mask_px).astype(int)
        own = own[((own >= 0) & (own < self.mask.shape[::-1])).all(axis=1)]
        mask[own[:, 1], own[:, 0]] = True
        return replace(self, mask=mask)

    @classmethod
    def of_spots(
        cls,
        on_tissue_px: NDArray[np.float64],
        off_tissue_px: NDArray[np.float64],
        pitch_px: float,
        px_per_mask_px: float,
    ) -> Tissue:
        """Return the cells of spots under tissue, on a white image: what is known of a section without one.

        Parameters
        ----------
        on_tissue_px, off_tissue_px
            (spot, 2), the spots under tissue and those beside it, pixels, 0 or more; the second may be empty.
        pitch_px
            Distance of neighbouring spots, pixels.
        px_per_mask_px
            Width of a pixel of the mask.
        """
        from skimage import morphology

        columns, rows = np.ceil((on_tissue_px.max(axis=0) + 2 * pitch_px) / px_per_mask_px).astype(int)
        white = np.full((rows, columns, 3), GLASS, np.uint8)
        blank = cls(np.zeros((rows, columns), bool), white, px_per_mask_px)
        pitch = pitch_px / px_per_mask_px
        to_tissue, to_glass = (blank._distance_to(xy_px, pitch) for xy_px in (on_tissue_px, off_tissue_px))
        # cells of spots that are a little off their lattice do not meet everywhere
        mask = morphology.remove_small_holes(to_tissue <= CELL, max_size=int(HOLE * pitch**2))
        return replace(blank, mask=mask & ~(to_tissue > to_glass))

    def _distance_to(self, xy_px: NDArray[np.float64], pitch: float) -> NDArray[np.float64]:
        """Return the distance of every mask pixel to the nearest of `xy_px`, in pitches; infinite above one pitch."""
        from scipy.spatial import cKDTree

        distance = np.full(self.mask.shape, np.inf)
        if len(xy_px) == 0:
            return distance
        points = xy_px / self.px_per_mask_px - 0.5  # centres of pixels are whole numbers then
        low = np.maximum(np.floor(points.min(axis=0) - pitch).astype(int), 0)
        high = np.minimum(np.ceil(points.max(axis=0) + pitch).astype(int) + 1, self.mask.shape[::-1])
        if (high <= low).any():
            return distance
        x, y = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)))
        nearest = cKDTree(points).query(np.column_stack([x.ravel(), y.ravel()]), distance_upper_bound=pitch)[0]
        distance[low[1] : high[1], low[0] : high[0]] = nearest.reshape(x.shape) / pitch
        return distance


def find_tissue(slide: Slide, mpp: float, settings: TissueSettings) -> Tissue:
    """Find where an H&E slide shows tissue, from the image alone.

    Glass is the commonest colour among the smoothest pixels, whatever its tint. A pixel is tissue where its colour
    differs from glass and, on images in which colours pass gradually into that of glass, where it is rough too: eosin
    that has run out over the glass is smooth. Both thresholds are Otsu's on a logarithmic scale, so that pale tissue
    stays beside dark tissue. Small pieces and holes are removed. On a slide with the fiducial frame of a Visium array,
    tissue under and beyond the frame is left out unless `settings.inside_frame` is false.

    Parameters
    ----------
    slide
        The full-resolution image.
    mpp
        Micrometres per full-resolution pixel.
    settings
        Resolution of the mask, and the least area of pieces and holes.

    Returns
    -------
    Tissue
        Where there is tissue: everywhere if the image shows no glass.

    Raises
    ------
    InputError
        When nothing on the slide is stained, see `require_h_and_e`.
    """
    from skimage import morphology

    scale = max(settings.um_per_px / mpp, 1.0)
    thumbnail = slide.thumbnail(scale)
    require_h_and_e(thumbnail)
    um_per_px = scale * mpp
    stained = _stained(thumbnail)
    if stained is None:
        logger.info("%s shows no glass: all of it is taken for tissue", slide.name)
        return Tissue(np.ones(thumbnail.shape[:2], bool), thumbnail, scale)
    area_px = round(settings.min_area_um2 / um_per_px**2)
    mask = morphology.remove_small_holes(morphology.isotropic_closing(stained, CLOSING_PX), max_size=area_px)
    mask = morphology.remove_small_objects(mask, max_size=area_px)
    frames = find_frames(thumbnail, um_per_px) if settings.inside_frame else None
    if frames is not None:
        logger.info("%s shows the fiducial frame of a Visium array: the tissue inside is used", slide.name)
        mask &= inside_frames(frames, thumbnail.shape[:2])
    return Tissue(mask, thumbnail, scale)


def _stained(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Return which pixels are stained tissue, None where the image shows no glass to tell it from."""
    from skimage import color

    is_scanned = thumbnail.max(axis=2) > PADDING  # scanners fill up with black
    lab = color.rgb2lab(thumbnail.astype(np.float32) / 255)
    colour = _difference_from(_glass_colour(lab[is_scanned], _texture(lab, is_scanned)[is_scanned]), lab)
    is_coloured, colour_ratio, valley = _split(colour, is_scanned)
    # no gap between the colours of glass and of stain: the stain has run out over the glass, or all is stain
    if valley > CLEAR_VALLEY:
        is_rough, texture_ratio, _ = _split(_texture_of_sides(lab, is_coloured, is_scanned), is_scanned)
        if texture_ratio >= MIN_TEXTURE_RATIO and is_coloured[is_rough & is_scanned].mean() >= COLOURED_SHARE:
            return is_coloured & is_rough & is_scanned
    return is_coloured & is_scanned if colour_ratio >= MIN_COLOUR_RATIO else None


def _texture_of_sides(
    lab: NDArray[np.float32], is_coloured: NDArray[np.bool_], is_scanned: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the texture of stain and of glass, each measured apart: the outline between them is not texture."""
    from skimage import morphology

    texture = np.zeros(is_scanned.shape, np.float32)
    for side in (is_coloured, ~is_coloured):
        inner = morphology.isotropic_erosion(side & is_scanned, OUTLINE_PX)
        # pieces too narrow to have an inner part are measured whole
        narrow = ~morphology.isotropic_dilation(inner, 2 * OUTLINE_PX)
        texture = np.where(side, _texture(lab, inner | (side & is_scanned & narrow)), texture)
    return texture


def _texture(lab: NDArray[np.float32], within: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the standard deviation of colours `within` a Gaussian window, CIELAB units, by normalised convolution."""
    from scipy.ndimage import gaussian_filter

    weight = within.astype(np.float32)
    total = np.maximum(gaussian_filter(weight, TEXTURE_PX), np.finfo(np.float32).eps)
    variance = np.zeros(lab.shape[:2], np.float32)
    for channel in np.moveaxis(lab, 2, 0):
        centred = (channel - channel.mean()) * weight  # squares of large numbers lose the small differences
        mean = gaussian_filter(centred, TEXTURE_PX) / total
        variance += np.maximum(gaussian_filter(centred**2, TEXTURE_PX) / total - mean**2, 0)
    return np.sqrt(variance)


def _glass_colour(lab: NDArray[np.float32], texture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the colour of glass, CIELAB: the lightest of the common ones among the smoothest of `lab` (pixel, 3)."""
    varies = texture > 0  # what has been filled in by a program is constant, glass has noise
    if varies.mean() > SMOOTH_SHARE:
        lab, texture = lab[varies], texture[varies]
    smooth = lab[texture <= np.quantile(texture, SMOOTH_SHARE)]
    bins = np.floor(smooth / GLASS_BIN).astype(np.int64)
    code = (bins - bins.min(axis=0)) @ np.array([1 << 32, 1 << 16, 1])
    _, first, which, count = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
    common = np.flatnonzero(count >= min(GLASS_BIN_SHARE * len(smooth), count.max()))
    lightness = smooth[first[common], 0]
    # colours as light as the lightest are chosen among by how common they are: noise spreads glass over several bins
    among = common[lightness > lightness.max() - 2 * GLASS_BIN]
    return np.median(smooth[which.ravel() == among[count[among].argmax()]], axis=0)


def _difference_from(glass: NDArray[np.float32], lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how far the colour of every pixel is from `glass`, CIELAB units, lightness counting less than hue."""
    from scipy.ndimage import gaussian_filter

    squared = np.zeros(lab.shape[:2], np.float32)
    for channel, centre, weight in zip(np.moveaxis(lab, 2, 0), glass, (LIGHTNESS_WEIGHT, 1.0, 1.0), strict=True):
        squared += (weight * (gaussian_filter(channel, COLOUR_PX) - centre)) ** 2
    return np.sqrt(squared)


def _split(values: NDArray[np.float32], is_scanned: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], float, float]:
    """Split by Otsu on the logarithms: which lie above, ratio of both medians, depth of the valley between."""
    from skimage import filters

    logarithms = np.log(values + FLOOR)
    threshold = float(filters.threshold_otsu(logarithms[is_scanned]))
    is_high = logarithms > threshold
    high, low = values[is_high & is_scanned], values[~is_high & is_scanned]
    if not len(high) or not len(low):
        return is_high, 1.0, 1.0
    n_near = int((np.abs(logarithms[is_scanned] - threshold) < NEAR).sum())
    return is_high, float(np.median(high) / max(np.median(low), FLOOR)), n_near / min(len(high), len(low))

"""Stain normalisation: Macenko et al., A method for normalizing histology slides for quantitative analysis (2009).

By Beer-Lambert's law the optical densities of a pixel, minus the logarithms of its channels, are a sum of the colour
vectors of its stains, each times the stain's concentration. All stained pixels therefore lie in the plane of two
vectors, between them, and the vectors are the extreme directions in that plane. Concentrations in a slide's own vectors
are scaled to a common range and multiplied with common vectors.

Not a library's: those of the field fit every tile by itself. A tile of one stain has no two to find, and differences
between tiles would be removed; here a slide has one map.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import Slide
from spamcaf.histology.tissue import Tissue

GLASS_DENSITY, EXTREME = 0.15, 1.0
"""The paper's: optical density below which a pixel is unstained, and the percentile taken for an extreme, since the
extremes themselves are noise and dirt."""
COMMON = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
"""Optical densities of red, green and blue of the common hematoxylin and eosin, from the code of the authors' group."""
COMMON_MAXIMA = np.array([1.9705, 1.0308])
"""Maximum concentrations, 99th percentiles, of the two stains in the common image, from there too."""
N_PATCHES, PATCH_PX, MIN_STAINED = 128, 64, 1000
DENSITY = -np.log((np.arange(256) + 1) / 256).astype(np.float32)
"""Optical density of each value of a channel: white has none, so that padding stays white."""


@dataclass(frozen=True)
class Macenko:
    """Brings the stains of one slide to the common ones: a linear map of optical densities, (3, 3)."""

    map: NDArray[np.float64]

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8]) -> Self:
        """Fit to the pixels of a slide's tissue, (pixel, 3) RGB; raise InputError where too few are stained."""
        density = DENSITY[pixels].astype(np.float64)
        density = density[(density >= GLASS_DENSITY).all(axis=1)]
        if len(density) < MIN_STAINED:
            raise InputError(
                f"{len(density)} stained pixels in a sample of {len(pixels)} from the tissue.",
                f"at least {MIN_STAINED}, to find the slide's stains.",
                "Check the tissue in the section's overlay, or set tiles.stain to none.",
            )
        to_concentrations = np.linalg.pinv(_stain_vectors(density))
        # scaled by the 99th percentile, so that slides of thin sections or weak staining get the common range
        maxima = np.percentile(density @ to_concentrations, 100 - EXTREME, axis=0)
        scale = np.diag(COMMON_MAXIMA / np.maximum(maxima, np.finfo(np.float32).eps))
        return cls(to_concentrations @ scale @ COMMON)

    @classmethod
    def of_slide(cls, slide: Slide, tissue: Tissue) -> Self:
        """Fit to small patches spread evenly over the tissue, at full resolution: thumbnails blur nuclei away."""
        inside = np.flatnonzero(tissue.mask)
        chosen = inside[np.unique(np.linspace(0, len(inside) - 1, N_PATCHES).astype(int))] if len(inside) else inside
        rows, columns = np.unravel_index(chosen, tissue.mask.shape)
        corners = np.column_stack([columns, rows]) * tissue.px_per_mask_px
        patches = [slide.read(int(x), int(y), PATCH_PX, PATCH_PX)[0].reshape(-1, 3) for x, y in corners]
        return cls.of_pixels(np.concatenate(patches) if patches else np.empty((0, 3), np.uint8))

    @cached_property
    def fingerprint(self) -> str:
        """A short text that differs between different maps."""
        return hashlib.sha256(np.round(self.map, 9).tobytes()).hexdigest()[:16]

    def __call__(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the tile, (row, column, 3) uint8, in the common stains."""
        density = np.maximum(DENSITY[tile] @ self.map.astype(np.float32), 0)
        return np.clip(256 * np.exp(-density) - 0.5, 0, 255).astype(np.uint8)


def _stain_vectors(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vectors of hematoxylin and eosin, (2, 3), of optical densities, (pixel, 3)."""
    # the plane that holds most of the variance is that of the two eigenvectors with the largest eigenvalues
    plane = np.linalg.eigh(np.cov(density.T))[1][:, [2, 1]]
    plane = plane * np.where(plane[0] < 0, -1, 1)
    along, across = (density @ plane).T
    # mixtures lie between the pure stains, so these have the extreme angles in the plane
    extremes = np.percentile(np.arctan2(across, along), [EXTREME, 100 - EXTREME])
    stains = np.stack([np.cos(extremes), np.sin(extremes)], axis=1) @ plane.T
    return stains[np.argsort(-stains[:, 0])]  # hematoxylin absorbs the more of the red

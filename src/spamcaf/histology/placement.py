"""Does this image belong to these spots? Spots lie on tissue, and no shift of the image fits them better."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamcaf.histology.tissue import Tissue
    from spamcaf.sections.lattice import Lattice

REACH = 3
"""Largest shift tried, in steps of the lattice."""
SAFE_SHARE, LOWEST_SHARE = 0.85, 0.5
"""Above the first share of spots on tissue an image is accepted, below the second refused, between them shifts decide.
On her2st C2-C4 the right image holds 0.97-0.99 of the spots, that of a neighbouring section 0.18-0.67."""
CLEAR_GAIN = 0.1
"""A shift fits better when its correlation is higher by this much."""


def require_on_tissue(tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice) -> float:
    """Return the share of spots on tissue; raise InputError when the image is another section's.

    `xy_px` is (spot, 2), full-resolution pixels.
    """
    share = float(tissue.holds(xy_px).mean())
    if share >= SAFE_SHARE:
        return share
    here, elsewhere = _agreement(tissue, xy_px, lattice)
    if share < LOWEST_SHARE or elsewhere > here + CLEAR_GAIN:
        raise InputError(
            f"{share:.0%} of the spots lie on tissue; agreement of spots and tissue is {here:.2f}, and {elsewhere:.2f} "
            "after shifting the image.",
            f"at least {SAFE_SHARE:.0%}, or no shift that fits better.",
            "The image is of another section, or its orientation is not that of the coordinates.",
        )
    return share


def _agreement(tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice) -> tuple[float, float]:
    """Correlate 'a spot is here' with 'tissue is here' over the lattice, in place and at the best shift."""
    steps = np.rint((xy_px - lattice.origin_px) @ np.linalg.inv(lattice.basis_px)).astype(int)
    low, high = steps.min(axis=0) - REACH, steps.max(axis=0) + REACH + 1
    places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True))), axis=-1).reshape(-1, 2)
    has_spot = np.isin(places @ [1, 1 << 20], steps @ [1, 1 << 20])

    def at(shift: tuple[int, int]) -> float:
        on_tissue = tissue.holds((places + shift) @ lattice.basis_px + lattice.origin_px)
        varies = 0 < on_tissue.sum() < len(on_tissue)
        return float(np.corrcoef(on_tissue, has_spot)[0, 1]) if varies else 0.0

    shifts = [(i, j) for i in range(-REACH, REACH + 1) for j in range(-REACH, REACH + 1)]
    return at((0, 0)), max(at(shift) for shift in shifts)

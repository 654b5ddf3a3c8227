"""Does this image belong to these spots? Spots lie on tissue, and no shift or turn of the image fits them better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.orientation import SWAPPED, orientations

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
"""A shift fits better when the correlation of spots and tissue is higher by this much; an orientation when its share
of spots on tissue is, too."""
MATCH, MATCH_GAIN = 0.9, 0.05
"""An orientation also fits better with a correlation above the first, which chance does not reach, and higher by the
second. On her2st the right orientation has 0.95-0.99, the others up to 0.78."""
MIRROR_GAIN = 0.02
"""By so much the given coordinates have to fit better than with x and y exchanged, where they mirror the array."""


def require_on_tissue(tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice) -> float:
    """Return the share of spots on tissue; raise InputError when the image is another section's, or turned.

    `xy_px` is (spot, 2), full-resolution pixels.
    """
    share = float(tissue.holds(xy_px).mean())
    places = _Places.around(tissue, xy_px, lattice)
    here, shifted = places.agreement(places.xy_px), places.best_shifted()
    _refuse_other_orientation(places, xy_px, share, here, shifted)
    if share < LOWEST_SHARE or (share < SAFE_SHARE and shifted > here + CLEAR_GAIN):
        raise InputError(
            f"{share:.0%} of the spots lie on tissue; agreement of spots and tissue is {here:.2f}, and {shifted:.2f} "
            "after shifting the image.",
            f"at least {SAFE_SHARE:.0%}, or no shift that fits better.",
            "The image is of another section, or its orientation is not that of the coordinates.",
        )
    return share


def require_handedness(tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice) -> None:
    """Raise InputError unless coordinates that mirror the array fit the image clearly better than with x and y swapped.

    To be called where `lattice.mirrored`: an image may be mirrored by right, a position file with its columns exchanged
    may not, and on tissue that looks alike either way only a person can tell.
    """
    places = _Places.around(tissue, xy_px, lattice)
    here, swapped = places.agreement(places.xy_px), places.agreement(places.xy_px[:, ::-1])
    if swapped > here - MIRROR_GAIN:
        raise InputError(
            f"array rows and columns that are mirrored in the image; agreement of spots and tissue is {here:.2f}, and "
            f"{swapped:.2f} with {SWAPPED}.",
            "coordinates as (x, y): pixel column, pixel row.",
            "Exchange the two columns of the coordinates; or, if the image was mirrored on purpose, say so: "
            "--params section_checks.allow_mirrored=true.",
        )


def _refuse_other_orientation(
    places: _Places, xy_px: NDArray[np.float64], share: float, here: float, shifted: float
) -> None:
    """Raise InputError when spots and tissue agree clearly better in another orientation."""
    tissue = places.tissue
    rows, columns = tissue.mask.shape
    size_px = (columns * tissue.px_per_mask_px, rows * tissue.px_per_mask_px)
    for name, orientation in orientations(xy_px, size_px).items():
        turned, agreement = float(tissue.holds(orientation(xy_px)).mean()), places.agreement(orientation(places.xy_px))
        gain = agreement - here
        matches = agreement > MATCH and gain > MATCH_GAIN
        rescues = turned > share + CLEAR_GAIN and gain > CLEAR_GAIN
        if turned >= SAFE_SHARE and agreement > shifted and (matches or rescues):
            raise InputError(
                f"{share:.0%} of the spots lie on tissue, but {turned:.0%} with {name}; agreement of spots and tissue "
                f"is {here:.2f}, and {agreement:.2f} so.",
                "the orientation that fits best.",
                f"Coordinates and image seem to differ by {name}: bring both into one orientation.",
            )


@dataclass(frozen=True)
class _Places:
    """The places of the lattice in and around the spots: where they are, and which of them have a spot."""

    tissue: Tissue
    basis_px: NDArray[np.float64]
    xy_px: NDArray[np.float64]
    has_spot: NDArray[np.bool_]

    @classmethod
    def around(cls, tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice) -> Self:
        steps = np.rint((xy_px - lattice.origin_px) @ np.linalg.inv(lattice.basis_px)).astype(int)
        low, high = steps.min(axis=0) - REACH, steps.max(axis=0) + REACH + 1
        grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True))), axis=-1).reshape(-1, 2)
        has_spot = np.isin(grid @ [1, 1 << 20], steps @ [1, 1 << 20])
        return cls(tissue, lattice.basis_px, grid @ lattice.basis_px + lattice.origin_px, has_spot)

    def agreement(self, moved_xy_px: NDArray[np.float64]) -> float:
        """Correlate 'a spot is here' with 'tissue is there', the places having been moved."""
        on_tissue = self.tissue.holds(moved_xy_px)
        varies = 0 < on_tissue.sum() < len(on_tissue)
        return float(np.corrcoef(on_tissue, self.has_spot)[0, 1]) if varies else 0.0

    def best_shifted(self) -> float:
        """Return the agreement at the best shift by whole steps."""
        reach = range(-REACH, REACH + 1)
        return max(self.agreement(self.xy_px + (i, j) @ self.basis_px) for i in reach for j in reach)

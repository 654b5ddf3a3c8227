"""The array indices of every spot: as the source states them, cross-checked, or found from the coordinates."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from spamcaf.errors import InputError
from spamcaf.sections.lattice import (
    FEWEST,
    INDEX_STEPS,
    TOO_CLOSE,
    FoundLattice,
    Lattice,
    LatticeKind,
    find_lattice,
    fit_lattice,
    require_finite,
    require_spread,
    search_lattice,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamcaf.parameters import SectionSettings

logger = logging.getLogger(__name__)

MAX_SKEW = 0.1
"""Largest stretch of a lattice along one direction. Real Visium has less than 0.01, her2st 0.01."""
CLEAR_RESIDUAL = 0.15
"""Up to this residual, in pitches, a lattice is so clear that coordinates alone must lead to the indices given."""
CLEAR_SQUARE = 0.05
"""Largest residual, and stretch, of coordinates that are on a square lattice for certain."""
MAX_MISPLACED = 0.05
"""Largest share of spots whose index is not the one that their coordinates tell."""


@dataclass(frozen=True)
class ArrayIndices:
    """The lattice, `index` (spot, 2) as (array_col, array_row), and where the index comes from."""

    lattice: Lattice
    index: NDArray[np.int64]
    source: Literal["array indices", "coordinates"]


def assign_array_indices(
    xy_px: NDArray[np.float64], index: NDArray[np.int64] | None, kind: LatticeKind | None, settings: SectionSettings
) -> ArrayIndices:
    """Return the lattice of spots at `xy_px` (spot, 2) and the place of each.

    `index` (spot, 2) holds array_col and array_row where the source gives them, `kind` what it says of the lattice.
    Raises InputError when coordinates, index and kind contradict each other; where the user states the pitch, the
    coordinates decide instead.
    """
    if index is not None and settings.pitch_um is not None:  # then the user knows more of the array than the source
        kind, index = _by_coordinates(xy_px, index)
    clear = None if index is None else _clear_kind(xy_px, index, kind)
    if index is not None and clear is not None:
        # the indices tell the places of scattered spots, whose distances tell nothing
        _require_same_places(index, xy_px)
        return ArrayIndices(fit_lattice(xy_px, index, clear), index, "array indices")
    require_spread(xy_px)
    if index is None:
        found = find_lattice(xy_px)
        _require_kind(found.lattice.kind, kind)
        _require_regular(found.lattice, settings, "Check the pixel coordinates.")
        return ArrayIndices(found.lattice, found.index, "coordinates")
    _require_unique(index)
    if kind == "hexagonal":
        _refuse_square(xy_px)
    lattice = fit_lattice(xy_px, index, kind or search_lattice(xy_px).lattice.kind)
    _require_regular(
        lattice, settings, "Check array_row, array_col and pixel coordinates; are rows and columns swapped?"
    )
    _require_same_places(index, xy_px)
    return ArrayIndices(lattice, index, "array indices")


def _require_kind(found: LatticeKind, stated: LatticeKind | None) -> None:
    if stated not in (None, found):
        raise InputError(
            f"spots on a {found} lattice.",
            f"a {stated} one, as the source says.",
            "Check that the coordinates are of this section, and that its files are of the kind that they seem.",
        )


def _is_clear(xy_px: NDArray[np.float64], index: NDArray[np.int64], kind: LatticeKind) -> bool:
    """Tell whether every spot stands alone, at the place on an undistorted lattice that its index says."""
    from scipy.spatial import cKDTree

    require_finite(xy_px)
    if len(xy_px) < FEWEST or len(np.unique(index, axis=0)) < len(index):
        return False
    try:
        lattice = fit_lattice(xy_px, index, kind)
    except InputError:  # spots on one line
        return False
    nearest = cKDTree(xy_px).query(xy_px, k=2)[0][:, 1]
    return bool(
        lattice.residual <= CLEAR_RESIDUAL and lattice.skew <= MAX_SKEW and nearest.min() > TOO_CLOSE * lattice.pitch_px
    )


def _clear_kind(xy_px: NDArray[np.float64], index: NDArray[np.int64], kind: LatticeKind | None) -> LatticeKind | None:
    """Return the kind of lattice that the index counts along without doubt, among those that the source allows."""
    kinds: list[LatticeKind] = ["hexagonal", "square"] if kind is None else [kind]
    return next((each for each in kinds if _is_clear(xy_px, index, each)), None)


def _by_coordinates(
    xy_px: NDArray[np.float64], index: NDArray[np.int64]
) -> tuple[LatticeKind, NDArray[np.int64] | None]:
    """Return the kind of lattice that the coordinates show, and the index where it counts along that."""
    try:
        kind = search_lattice(xy_px).lattice.kind
    except InputError:  # scattered spots, of which only the indices tell
        kind = _clear_kind(xy_px, index, None) or "square"
    if _is_clear(xy_px, index, kind):
        return kind, index
    logger.warning("array_row and array_col do not count along the %s lattice of the coordinates: not used", kind)
    return kind, None


def _refuse_square(xy_px: NDArray[np.float64]) -> None:
    """Raise InputError where spots that the source calls hexagonal lie on a square lattice."""
    try:
        found = search_lattice(xy_px)
    except InputError:  # the fit by the indices will say what is wrong
        return
    if found.lattice.kind == "square" and max(found.lattice.residual, found.lattice.skew) <= CLEAR_SQUARE:
        raise InputError(
            f"spots on a square lattice, {found.lattice.pitch_px:.1f} px apart, in the files of a Visium section.",
            "Visium's hexagonal lattice.",
            "A square array, such as a microfluidic one (DBiT-seq), is read once the distance of its neighbouring "
            "spots is stated: --params section_checks.pitch_um=<um>.",
        )


def _require_unique(index: NDArray[np.int64]) -> None:
    places, counts = np.unique(index, axis=0, return_counts=True)
    if (counts > 1).any():
        column, row = places[counts.argmax()]
        raise InputError(
            f"{counts.max()} spots with array_row {row} and array_col {column}.",
            "one spot per place.",
            "Correct array_row and array_col, or leave both out: they are found from the coordinates then. If several "
            "sections are in one file, write each to a file of its own.",
        )


def _require_regular(lattice: Lattice, settings: SectionSettings, next_step: str) -> None:
    limit = settings.max_lattice_residual
    if lattice.residual > limit or lattice.skew > MAX_SKEW:
        raise InputError(
            f"spots {lattice.residual:.2f} pitches off a {lattice.kind} lattice, stretched by {lattice.skew:.0%}.",
            f"at most {limit:.2f} pitches and {MAX_SKEW:.0%}.",
            next_step,
        )


def _require_same_places(index: NDArray[np.int64], xy_px: NDArray[np.float64]) -> None:
    """Raise InputError where coordinates that lie on a clear lattice tell other indices."""
    try:
        found = search_lattice(xy_px)
    except InputError:  # spots too irregular to tell anything, though within the limits that the user set
        return
    if found.lattice.residual > CLEAR_RESIDUAL:
        return
    n_misplaced = _count_misplaced(index, found)
    if n_misplaced > MAX_MISPLACED * len(index):
        raise InputError(
            f"{n_misplaced} of {len(index)} spots lie elsewhere than their array_row and array_col say.",
            f"at most {MAX_MISPLACED:.0%}.",
            "Check that indices and coordinates are of one section, and that no part of it was moved.",
        )


def _count_misplaced(index: NDArray[np.int64], found: FoundLattice) -> int:
    """Count the spots whose two indices do not differ by the symmetry and shift of most others of their piece."""
    to_steps = np.linalg.inv(INDEX_STEPS[found.lattice.kind])
    given, own = index @ to_steps, found.index @ to_steps
    size = np.bincount(found.piece)

    def centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
        means = np.column_stack([np.bincount(found.piece, column) / size for column in values.T])
        return values - means[found.piece]

    turn = np.rint(np.linalg.lstsq(centred(own), centred(given), rcond=None)[0])
    shift = np.rint(2 * (given - own @ turn)).astype(np.int64)
    groups, counts = np.unique(np.column_stack([found.piece, shift]), axis=0, return_counts=True)
    most = np.zeros(len(size), np.int64)
    np.maximum.at(most, groups[:, 0], counts)
    return int((size - most).sum()) if abs(np.linalg.det(turn)) > 0.5 else len(index)  # noqa: PLR2004

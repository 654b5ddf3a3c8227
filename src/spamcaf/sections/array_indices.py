"""Coordinates and array indices of every spot: read from the section, cross-checked, or found from coordinates.

Indices of the source are believed where coordinates confirm them. Where the source has none, or where the user states
the pitch because the source describes another array, the lattice of the coordinates decides.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SPATIAL, Obs, SectionField
from spamcaf.sections import lattice as lattices
from spamcaf.sections.lattice import (
    Floats,
    FoundLattice,
    Integers,
    Lattice,
    LatticeKind,
    fit_lattice,
    scattered_lattice,
    search_lattice,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.parameters import SectionSettings

logger = logging.getLogger(__name__)

_MAX_SKEW = 0.1  # largest stretch of a lattice along one direction. Real Visium has less than 0.01, her2st 0.01
_CLEAR_RESIDUAL = 0.15  # up to this residual, in pitches, coordinates alone must lead to the indices given
_CLEAR_SQUARE = 0.05  # largest residual, and stretch, of coordinates that are on a square lattice for certain
_MAX_MISPLACED = 0.05  # largest share of spots whose index is not the one that follows from their coordinates


@dataclass(frozen=True)
class ArrayIndices:
    """The lattice, `index` (spot, 2) int64 as (array_col, array_row), and where the index comes from."""

    lattice: Lattice
    index: Integers
    source: Literal["array indices", "coordinates"]


def coordinates_of(section: AnnData) -> Floats:
    """Return (x, y) of every spot (spot, 2), in pixels; raise InputError unless they are finite numbers."""
    if SPATIAL not in section.obsm:
        keys = ", ".join(section.obsm.keys()) or "nothing"
        raise InputError(f"no coordinates, obsm holds {keys}.", f"obsm['{SPATIAL}'].", "Check the section's file.")
    try:
        xy = np.asarray(section.obsm[SPATIAL], np.float64)
    except (TypeError, ValueError) as error:
        found = f"coordinates that are no numbers ({error})."
        raise InputError(found, "x and y in pixels.", "Check the position file.") from error
    if xy.ndim != 2 or xy.shape[1] != 2:  # noqa: PLR2004
        raise InputError(f"coordinates of shape {xy.shape}.", "x and y of every spot.", "Check the section's file.")
    lattices.require_finite(xy)
    return xy


def index_of(section: AnnData) -> Integers | None:
    """Return (array_col, array_row) of every spot (spot, 2), or None where the source has none."""
    columns = (Obs.ARRAY_COL, Obs.ARRAY_ROW)
    if not all(column in section.obs for column in columns):
        return None
    return np.column_stack([whole_numbers(section, column) for column in columns])


def whole_numbers(section: AnnData, column: Obs) -> Integers:
    """Return a column of obs (spot,), which may hold text or booleans; raise InputError unless all are whole."""
    import pandas as pd

    if column not in section.obs:
        raise InputError(f"no column {column} of obs.", "a number for every spot.", "Check the section's file.")
    text = section.obs[column].astype("string").str.lower().replace({"true": "1", "false": "0"})
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~np.isfinite(numbers) | (numbers != np.floor(numbers))
    if wrong.any():
        found = f"{column} '{section.obs[column].iloc[int(wrong.argmax())]}' of {section.obs_names[wrong.argmax()]}."
        raise InputError(found, "a whole number for every spot.", "Check the position file.")
    return numbers.astype(np.int64)


def lattice_of(section: AnnData) -> Lattice:
    """Fit the lattice of a checked section's spots."""
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    return fit_lattice(section.obsm[SPATIAL], index, section.uns[SECTION_METADATA][SectionField.LATTICE])


def assign_array_indices(
    xy_px: Floats, index: Integers | None, kind: LatticeKind | None, settings: SectionSettings
) -> ArrayIndices:
    """Return the lattice of the spots and the array index of each.

    Parameters
    ----------
    xy_px : (spot, 2) float64, full-resolution pixels
    index : (spot, 2) int64, array_col and array_row, where the source has them
    kind : the kind of lattice, where the source states it
    settings : limits; where `pitch_um` is set, the coordinates decide over index and kind

    Raises
    ------
    InputError : when coordinates, index and kind contradict each other
    """
    if settings.scattered:
        numbers = np.column_stack([np.arange(len(xy_px)), np.zeros(len(xy_px), np.int64)])
        return ArrayIndices(scattered_lattice(np.asarray(xy_px, np.float64)), numbers, "coordinates")
    if index is not None and settings.pitch_um is not None:
        kind, index = _by_coordinates(xy_px, index)
    clear = None if index is None else _clear_kind(xy_px, index, kind)
    if index is not None and clear is not None:
        # before any look at distances: those between scattered spots do not show the lattice, their indices do
        _require_same_indices(index, xy_px)
        return ArrayIndices(fit_lattice(xy_px, index, clear), index, "array indices")
    lattices.require_spread(xy_px)
    if index is None:
        found = lattices.find_lattice(xy_px)
        if kind not in (None, found.lattice.kind):
            raise InputError(
                f"spots on a {found.lattice.kind} lattice.",
                f"a {kind} one, as the source states.",
                "Check that the coordinates are of this section, and that its files are of the kind that they seem.",
            )
        _require_regular(found.lattice, settings, "Check the pixel coordinates.")
        return ArrayIndices(found.lattice, found.index, "coordinates")
    _require_unique(index)
    if kind == "hexagonal":
        _refuse_square(xy_px)
    lattice = fit_lattice(xy_px, index, kind or search_lattice(xy_px).lattice.kind)
    fix = "Check array_row, array_col and pixel coordinates; are rows and columns swapped?"
    _require_regular(lattice, settings, fix)
    _require_same_indices(index, xy_px)
    return ArrayIndices(lattice, index, "array indices")


def _by_coordinates(xy_px: Floats, index: Integers) -> tuple[LatticeKind, Integers | None]:
    """Return the kind of lattice that the coordinates show, and the index where it counts along that."""
    try:
        kind = search_lattice(xy_px).lattice.kind
    except InputError:  # scattered spots, whose lattice only the indices show
        kind = _clear_kind(xy_px, index, None) or "square"
    if _is_clear(xy_px, index, kind):
        return kind, index
    logger.warning("array_row and array_col do not count along the %s lattice of the coordinates: not used", kind)
    return kind, None


def _clear_kind(xy_px: Floats, index: Integers, kind: LatticeKind | None) -> LatticeKind | None:
    """Return the kind of lattice that the index counts along without doubt, among those that the source allows."""
    kinds: list[LatticeKind] = ["hexagonal", "square"] if kind is None else [kind]
    return next((each for each in kinds if _is_clear(xy_px, index, each)), None)


def _is_clear(xy_px: Floats, index: Integers, kind: LatticeKind) -> bool:
    """Tell whether every spot stands alone, at the point of an undistorted lattice that its index names."""
    lattices.require_finite(xy_px)
    if len(xy_px) < lattices.FEWEST_SPOTS or len(np.unique(index, axis=0)) < len(index):
        return False
    try:
        lattice = fit_lattice(xy_px, index, kind)
    except InputError:  # spots on one line
        return False
    nearest = lattices.nearest_neighbours(xy_px, 1)[0]
    is_apart = nearest.min() > lattices.TOO_CLOSE * lattice.pitch_px
    return bool(lattice.residual <= _CLEAR_RESIDUAL and lattice.skew <= _MAX_SKEW and is_apart)


def _refuse_square(xy_px: Floats) -> None:
    """Raise InputError where spots of a source that is hexagonal by its kind lie on a square lattice."""
    try:
        found = search_lattice(xy_px)
    except InputError:  # the fit by the indices shows what is wrong
        return
    if found.lattice.kind == "square" and max(found.lattice.residual, found.lattice.skew) <= _CLEAR_SQUARE:
        raise InputError(
            f"spots on a square lattice, {found.lattice.pitch_px:.1f} px apart, in the files of a Visium section.",
            "Visium's hexagonal lattice.",
            "A square array, such as a microfluidic one (DBiT-seq), is read once the distance of its neighbouring "
            "spots is stated: --params section_checks.pitch_um=<um>.",
        )


def _require_unique(index: Integers) -> None:
    pairs, counts = np.unique(index, axis=0, return_counts=True)
    if (counts > 1).any():
        column, row = pairs[counts.argmax()]
        raise InputError(
            f"{counts.max()} spots with array_row {row} and array_col {column}.",
            "one spot per pair of indices.",
            "Correct array_row and array_col, or leave both out: they are found from the coordinates then. If several "
            "sections are in one file, write each to a file of its own.",
        )


def _require_regular(lattice: Lattice, settings: SectionSettings, next_step: str) -> None:
    limit = settings.max_lattice_residual
    if lattice.residual > limit or lattice.skew > _MAX_SKEW:
        found = f"spots {lattice.residual:.2f} pitches off a {lattice.kind} lattice, stretched by {lattice.skew:.0%}."
        raise InputError(found, f"at most {limit:.2f} pitches and {_MAX_SKEW:.0%}.", next_step)


def _require_same_indices(index: Integers, xy_px: Floats) -> None:
    """Raise InputError where coordinates that lie on a clear lattice lead to other indices."""
    try:
        found = search_lattice(xy_px)
    except InputError:  # spots too irregular to compare, though within the limits that the user set
        return
    n_misplaced = _count_misplaced(index, found) if found.lattice.residual <= _CLEAR_RESIDUAL else 0
    if n_misplaced > _MAX_MISPLACED * len(index):
        raise InputError(
            f"{n_misplaced} of {len(index)} spots lie elsewhere than at their array_row and array_col.",
            f"at most {_MAX_MISPLACED:.0%}.",
            "Check that indices and coordinates are of one section, and that no part of it was moved.",
        )


def _count_misplaced(index: Integers, found: FoundLattice) -> int:
    """Count the spots whose two indices do not differ by the symmetry and shift of most others of their piece.

    Found indices are right up to a symmetry of the lattice, common to all spots, and a shift of each piece.
    """
    to_steps, piece = np.linalg.inv(lattices.INDEX_STEPS[found.lattice.kind]), found.piece
    given, own = index @ to_steps, found.index @ to_steps
    # shifts drop out of steps about each piece's mean: what is left is the symmetry, a matrix of whole numbers
    centred_own, centred_given = (values - lattices.piece_means(values, piece)[piece] for values in (own, given))
    turn = np.rint(np.linalg.lstsq(centred_own, centred_given, rcond=None)[0])
    # twice, since an index of the wrong parity lies half a step off a hexagonal lattice
    shift = np.rint(2 * (given - own @ turn)).astype(np.int64)
    groups, counts = np.unique(np.column_stack([piece, shift]), axis=0, return_counts=True)
    most = np.zeros(piece.max() + 1, np.int64)
    np.maximum.at(most, groups[:, 0], counts)
    is_symmetry = abs(np.linalg.det(turn)) > 0.5  # noqa: PLR2004
    return len(index) - int(most.sum()) if is_symmetry else len(index)

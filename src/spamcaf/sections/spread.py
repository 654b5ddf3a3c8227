"""Coordinates that no array of spots can have: not numbers, one point, one line, doubled spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 6
"""Spots from which a lattice can be told."""
TOO_CLOSE = 0.3
"""Spots closer than this share of the median nearest distance are one spot twice."""
LOWEST_ORDER = 0.4
"""Least agreement of the directions between neighbours, 0 to 1: 0.7 on a lattice with jitter of 0.1 pitches."""
NARROW = 0.5
"""An array narrower than this share of it is a line."""


def require_finite(xy_px: NDArray[np.float64]) -> None:
    """Raise InputError when a coordinate is missing or infinite."""
    n_missing = int((~np.isfinite(xy_px)).any(axis=1).sum())
    if n_missing:
        raise InputError(f"{n_missing} spots without coordinates.", "numbers for all.", "Check the position file.")


def require_spread(xy_px: NDArray[np.float64]) -> float:
    """Return the median distance to the nearest spot, pixels; raise InputError unless spots stand apart in a plane.

    `xy_px` is (spot, 2).
    """
    from scipy.spatial import cKDTree

    require_finite(xy_px)
    if len(xy_px) < FEWEST:
        raise InputError(f"{len(xy_px)} spots.", f"at least {FEWEST}.", "Check that the section is whole.")
    nearest = cKDTree(xy_px).query(xy_px, k=2)[0][:, 1]
    usual = float(np.median(nearest))
    n_twice = int((nearest <= TOO_CLOSE * usual).sum())
    if n_twice:
        _require_order(xy_px[nearest > TOO_CLOSE * usual])
        raise InputError(
            f"{n_twice} of {len(xy_px)} spots at the place of another one.",
            "each spot at its own place.",
            "Check the coordinates, and remove doubled spots; if a file holds several sections, write each to its own.",
        )
    _require_two_dimensions(xy_px, usual)
    return usual


def no_lattice() -> InputError:
    """Return the error for spots at places of no regular array."""
    return InputError(
        "spots on no lattice: their distances and directions are irregular, as those of single cells or beads are.",
        "a hexagonal or a square lattice.",
        "Check the coordinates; of spatial data only spot arrays (Visium, Visium HD, ST) can be used.",
    )


def direction_order(vectors: NDArray[np.float64], fold: int) -> complex:
    """Return the mean of exp(i fold angle) of vectors (n, 2).

    Its modulus is 1 where all angles agree modulo a whole turn / `fold`, and near 0 for random directions.
    """
    return complex(np.exp(1j * fold * np.arctan2(vectors[:, 1], vectors[:, 0])).mean())


def _require_order(xy_px: NDArray[np.float64]) -> None:
    """Raise InputError where spots, those too close to another left out, point in all directions: none are doubled."""
    from scipy.spatial import cKDTree

    if len(xy_px) < FEWEST:
        return
    nearest = cKDTree(xy_px).query(xy_px, k=2)[1][:, 1]
    vectors = xy_px[nearest] - xy_px
    if max(abs(direction_order(vectors, fold)) for fold in (4, 6)) < LOWEST_ORDER:
        raise no_lattice()


def _require_two_dimensions(xy_px: NDArray[np.float64], usual: float) -> None:
    centred = xy_px - xy_px.mean(axis=0)
    across = centred @ np.linalg.eigh(centred.T @ centred)[1][:, 0]
    if np.ptp(across) < NARROW * usual:
        raise InputError("spots on one line.", "spots in two dimensions.", "Check that both coordinates are given.")

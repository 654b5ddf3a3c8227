"""Coordinates that no array of spots can have: not numbers, one point, one line, doubled spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST = 6
TOO_CLOSE = 0.3
"""Spots closer than this share of the median nearest distance are one spot twice."""
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
        raise InputError(
            f"{n_twice} of {len(xy_px)} spots at the place of another one.",
            "each spot at its own place.",
            "Check the coordinates, and remove doubled spots.",
        )
    centred = xy_px - xy_px.mean(axis=0)
    across = centred @ np.linalg.eigh(centred.T @ centred)[1][:, 0]
    if np.ptp(across) < NARROW * usual:
        raise InputError("spots on one line.", "spots in two dimensions.", "Check that both coordinates are given.")
    return usual

"""Cutting a section into blocks of tissue: to hide one, and to fold what is left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALVES = 2


def cut_blocks(xy_um: NDArray[np.float64], n_blocks: int) -> NDArray[np.int64]:
    """Return the block of each spot, 0 .. n_blocks - 1, for `xy_um` (spot, 2): halves or quadrants.

    Halves are cut at the median along the longer principal axis of the spots; quadrants cut each half at its own median
    along the other axis.
    """
    along, across = _principal_coordinates(xy_um).T
    half = _upper_half(along, across)
    if n_blocks == HALVES:
        return half.astype(np.int64)
    block = np.empty(len(xy_um), np.int64)
    for side in (False, True):
        rows = np.flatnonzero(half == side)
        block[rows] = 2 * side + _upper_half(across[rows], along[rows])
    return block


def fold_by_block(xy_um: NDArray[np.float64], n_folds: int) -> NDArray[np.int64]:
    """Return the fold of each spot, 0 .. n_folds - 1: pieces of tissue of equal size, by recursive bisection.

    Where a whole block is predicted, the nearest measured spot is far. Mixing weights and intervals learned on folds of
    single spots, each with its neighbours in sight, would be right for interpolation and wrong there. Cuts are
    straight: at a concave outline a spot or two may lie apart from their piece.
    """
    fold = np.zeros(len(xy_um), np.int64)
    _bisect(xy_um, np.arange(len(xy_um)), n_folds, 0, fold)
    return fold


def is_within_reach(xy_um: NDArray[np.float64], others_um: NDArray[np.float64], reach_um: float) -> NDArray[np.bool_]:
    """Tell which spots have one of `others_um` (other, 2) within `reach_um` along both image axes."""
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(others_um).query(xy_um, p=np.inf)
    near: NDArray[np.bool_] = np.asarray(distance) <= reach_um
    return near


def _bisect(
    xy_um: NDArray[np.float64], rows: NDArray[np.int64], n_folds: int, first: int, fold: NDArray[np.int64]
) -> None:
    if n_folds == 1:
        fold[rows] = first
        return
    along, across = _principal_coordinates(xy_um[rows]).T
    n_lower = n_folds // 2
    order = rows[np.lexsort((across, along))]
    cut = round(len(rows) * n_lower / n_folds)
    _bisect(xy_um, order[:cut], n_lower, first, fold)
    _bisect(xy_um, order[cut:], n_folds - n_lower, first + n_lower, fold)


def _upper_half(along: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.bool_]:
    # by rank, not by comparison with the median: on a lattice many spots share one coordinate
    upper = np.zeros(len(along), bool)
    upper[np.lexsort((across, along))[len(along) // 2 :]] = True
    return upper


def _principal_coordinates(xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (spot, 2) coordinates along the longer and the shorter principal axis, both pointing right or down."""
    centred = xy_um - xy_um.mean(axis=0)
    scatter = centred.T @ centred
    scatter = np.round(scatter / max(np.abs(scatter).max(), np.finfo(float).tiny), 9)  # a square has no own axes
    _, axes = np.linalg.eigh(scatter)
    axes = axes[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return np.round(centred @ axes, 6)  # spots of one lattice row stay in one row

"""Hiding spots: which are learned from, which are scored, and in which fold of cross-validation."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import Part
from spamcaf.sections.lattice import Booleans, Floats, Integers

if TYPE_CHECKING:
    import pandas as pd

    from spamcaf.parameters import SplitSettings

BARCODE, PART, FOLD = "barcode", "part", "fold"
NO_FOLD = -1
MAP_FOLDS = 5  # folds of the model of all spots where the split itself has none
_FEWEST_HIDDEN = 3  # a correlation over fewer spots means nothing
_HALVES = 2


def split_spots(
    barcodes: list[str],
    xy_um: Floats,
    reach_um: float,
    settings: SplitSettings,
    seed: int,
    steps: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Hide spots and assign the visible ones to folds.

    - random: single spots are hidden uniformly, and folds are drawn at random.
    - lattice: every k-th row and column of the array stays visible, a lattice of k times the pitch; the mask chooses
      which of the k x k. It is what prediction between the spots does, but at sites with a measured truth.
    - block: a block of tissue is hidden, see `cut_blocks`. Its spots within reach of a visible one are the buffer:
      neither learned from nor scored. Folds are pieces of tissue too.
    - section: all spots are hidden; the model that predicts them is fitted on other sections.

    The split follows from the spots, the seed and the mask alone: their order does not matter. Which spots lattice and
    block hide does not depend on the seed.

    Parameters
    ----------
    barcodes : a unique one per spot
    xy_um : (spot, 2) float64, micrometres
    reach_um : how far from its centre, along both image axes, a spot's window may touch another spot
    settings : protocol, share, k or number of blocks, mask and number of folds
    seed : of the random protocol, and of the folds of random and lattice
    steps : (spot, 2) int64, steps along the two lattice vectors (see `lattice.lattice_steps`), of the lattice protocol

    Returns
    -------
    DataFrame with a row per spot: barcode, part (train | hidden | buffer) and fold (0 .. n_folds - 1 for training
        spots, -1 for others); each fold serves as the validation part once

    Raises
    ------
    InputError : when too few spots are left to learn from or to score
    ValueError : when the lattice protocol is given no steps
    """
    import pandas as pd

    order = sorted(range(len(barcodes)), key=barcodes.__getitem__)
    names, xy_um = sorted(barcodes), xy_um[order]
    if settings.protocol == "random":
        part, fold = _hide_at_random(names, settings, seed)
    elif settings.protocol == "lattice":
        if steps is None:
            raise ValueError("The lattice protocol needs the steps of each spot along the lattice vectors, found none.")
        part, fold = _hide_between(names, np.asarray(steps)[order], settings, seed)
    elif settings.protocol == "block":
        part, fold = _hide_block(xy_um, reach_um, settings)
    else:
        part, fold = np.full(len(names), Part.HIDDEN.value), np.full(len(names), NO_FOLD)
    _require_enough(part, settings)
    table = pd.DataFrame({BARCODE: names, PART: part, FOLD: fold}).set_index(BARCODE)
    return table.loc[barcodes].reset_index()


def fold_all(split: pd.DataFrame) -> pd.DataFrame:
    """Return barcode and fold of every spot, for the model of all spots; those without a fold are dealt out.

    Where whole blocks or the section were hidden, all spots are dealt out at random: that model predicts between
    measured spots, and folds of distant tissue would give it the mixing weights of extrapolation.
    """
    folded = split[[BARCODE, FOLD]].copy()
    left_out = (split[PART] != Part.TRAIN).to_numpy()
    if left_out.all() or (split[PART] == Part.BUFFER).any():
        n_folds = MAP_FOLDS if left_out.all() else split[FOLD].max() + 1
        names = sorted(split[BARCODE])
        dealt = np.random.default_rng(_number(names)).permutation(len(names)) % n_folds
        folded[FOLD] = folded[BARCODE].map(dict(zip(names, dealt, strict=True)))
    else:
        folded.loc[left_out, FOLD] = np.arange(left_out.sum()) % (split[FOLD].max() + 1)
    return folded


def barcodes_of(split: pd.DataFrame, part: Part) -> list[str]:
    """Return the barcodes of one part, in the split's order."""
    return split.loc[split[PART] == part.value, BARCODE].tolist()


def cut_blocks(xy_um: Floats, n_blocks: int) -> Integers:
    """Return the block of each spot (spot,), 0 .. n_blocks - 1, for `xy_um` (spot, 2): halves or quadrants.

    Halves are cut at the median along the longer principal axis of the spots; quadrants cut each half at its own median
    along the other axis.
    """
    along, across = _principal_coordinates(xy_um).T
    block = _upper_half(along, across)
    if n_blocks == _HALVES:
        return block
    quadrant = 2 * block
    for half in (block == 0, block == 1):
        quadrant[half] += _upper_half(across[half], along[half])
    return quadrant


def fold_by_block(xy_um: Floats, n_folds: int) -> Integers:
    """Return the fold of each spot (spot,): pieces of tissue of equal size, by recursive bisection of `xy_um`.

    Where a whole block is predicted, the nearest measured spot is far. Mixing weights and intervals learned on folds of
    single spots, each between its measured neighbours, would be right for interpolation and wrong there.
    """
    if n_folds == 1:
        return np.zeros(len(xy_um), np.int64)
    along, across = _principal_coordinates(xy_um).T
    n_lower = n_folds // 2
    lower, upper = np.split(np.lexsort((across, along)), [round(len(xy_um) * n_lower / n_folds)])
    fold = np.empty(len(xy_um), np.int64)
    fold[lower] = fold_by_block(xy_um[lower], n_lower)
    fold[upper] = n_lower + fold_by_block(xy_um[upper], n_folds - n_lower)
    return fold


def is_within_reach(xy_um: Floats, others_um: Floats, reach_um: float) -> Booleans:
    """Tell which spots (spot,) have one of `others_um` (other, 2) within `reach_um` along both image axes."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(others_um).query(xy_um, p=np.inf)[0] <= reach_um)


def _upper_half(along: Floats, across: Floats) -> Integers:
    """Return 1 for the spots of the upper half, by rank: on a lattice many spots share one coordinate."""
    upper = np.zeros(len(along), np.int64)
    upper[np.lexsort((across, along))[len(along) // 2 :]] = 1
    return upper


def _principal_coordinates(xy_um: Floats) -> Floats:
    """Return (spot, 2) coordinates along the longer and the shorter principal axis, both pointing right or down."""
    centred = xy_um - xy_um.mean(axis=0)
    scatter = centred.T @ centred
    # a square has no principal axes: without rounding, noise of the last digit would choose them
    scatter = np.round(scatter / max(np.abs(scatter).max(), np.finfo(float).tiny), 9)
    axes = np.linalg.eigh(scatter)[1][:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return np.round(centred @ axes, 6)  # spots of one lattice row stay in one row


def _hide_at_random(names: list[str], settings: SplitSettings, seed: int) -> tuple[NDArray[np.str_], Integers]:
    order = np.random.default_rng([seed, settings.mask, _number(names)]).permutation(len(names))
    n_hidden = max(min(max(round(len(names) * settings.hidden_share), 1), len(names) - settings.n_folds), 0)
    return _deal(order[n_hidden:], len(names), settings.n_folds)


def _hide_between(
    names: list[str], steps: NDArray[np.int64], settings: SplitSettings, seed: int
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    # k steps along both vectors span the lattice k times as wide: of a square and of a hexagonal one alike
    phase = divmod(settings.mask % settings.every**2, settings.every)
    visible = (steps[:, ::-1] % settings.every == phase).all(axis=1)  # row first
    order = np.random.default_rng([seed, settings.mask, _number(names)]).permutation(len(names))
    return _deal(order[visible[order]], len(names), settings.n_folds)


def _deal(visible: NDArray[np.int64], n_spots: int, n_folds: int) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return part and fold of each spot (spot,): rows `visible` are dealt out to folds in turn, others are hidden."""
    fold = np.full(n_spots, NO_FOLD)
    fold[visible] = np.arange(len(visible)) % n_folds
    return np.where(fold == NO_FOLD, Part.HIDDEN.value, Part.TRAIN.value), fold


def _hide_block(xy_um: Floats, reach_um: float, settings: SplitSettings) -> tuple[NDArray[np.str_], Integers]:
    hidden = cut_blocks(xy_um, settings.n_blocks) == settings.mask % settings.n_blocks
    part, fold = np.where(hidden, Part.HIDDEN.value, Part.TRAIN.value), np.full(len(xy_um), NO_FOLD)
    if hidden.any() and not hidden.all():  # else too few spots are left, which the caller reports
        is_near = is_within_reach(xy_um[hidden], xy_um[~hidden], reach_um)
        part[hidden] = np.where(is_near, Part.BUFFER.value, Part.HIDDEN.value)
        fold[~hidden] = fold_by_block(xy_um[~hidden], settings.n_folds)
    return part, fold


def _require_enough(part: NDArray[np.str_], settings: SplitSettings) -> None:
    n_hidden, n_train, n_buffer = (int((part == p.value).sum()) for p in (Part.HIDDEN, Part.TRAIN, Part.BUFFER))
    n_needed = 0 if settings.protocol == "section" else settings.n_folds
    if n_hidden >= _FEWEST_HIDDEN and n_train >= n_needed:
        return
    larger = "Hide halves: split.n_blocks=2. " if settings.n_blocks > _HALVES else ""
    steps = {
        "random": "Change split.hidden_share, or use a larger section.",
        "lattice": f"split.every={settings.every} shows one spot in {settings.every**2}. Lower it if above 2, try "
        "another split.mask, use a larger section, or split.protocol=random.",
        "block": f"{larger}Use smaller tiles (tiles.tile_um), a larger section, or split.protocol=random.",
        "section": "Use a larger section.",
    }
    raise InputError(
        f"{n_train} spots to learn from, {n_hidden} to score and {n_buffer} too near to a visible one to be scored.",
        f"at least {settings.n_folds} to learn from (split.n_folds) and {_FEWEST_HIDDEN} to score.",
        steps[settings.protocol],
    )


def _number(names: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:4], "little")

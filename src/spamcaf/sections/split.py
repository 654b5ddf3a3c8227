"""Hiding spots: which are learned from, which are scored, and in which fold."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import Part

if TYPE_CHECKING:
    import pandas as pd

    from spamcaf.parameters import SplitSettings

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


BARCODE, PART, FOLD = "barcode", "part", "fold"
NO_FOLD = -1
FEWEST_HIDDEN = 3
"""A correlation over fewer spots says nothing."""
MAP_FOLDS = 5
"""Folds of the model of all spots where the split itself has none."""


def split_spots(
    barcodes: list[str], xy_um: NDArray[np.float64], reach_um: float, settings: SplitSettings, seed: int
) -> pd.DataFrame:
    """Hide spots and fold the visible ones.

    `xy_um` is (spot, 2); `reach_um` is how far from its centre, along both image axes, a spot's window may touch
    another spot. Returns a table with barcode, part (train | hidden | buffer) and fold (0 .. n_folds - 1 for training
    spots, -1 for others); each fold serves as the validation part once.

    - random: single spots are hidden uniformly, and folds are drawn at random.
    - block: a block of tissue is hidden, see `blocks`. Its spots within reach of a visible one are the buffer: neither
      learned from nor scored. Folds are pieces of tissue too.
    - section: all spots are hidden; what predicts them was learned on other sections.

    The split follows from the spots, the seed and the mask alone: their order does not matter. Raises InputError when
    too few spots are left to learn from or to score.
    """
    import pandas as pd

    order = sorted(range(len(barcodes)), key=barcodes.__getitem__)
    names, xy_um = [barcodes[row] for row in order], np.asarray(xy_um, np.float64)[order]
    if settings.protocol == "random":
        part, fold = _hide_at_random(names, settings, seed)
    elif settings.protocol == "block":
        part, fold = _hide_block(xy_um, reach_um, settings)
    else:
        part, fold = np.full(len(names), Part.HIDDEN.value), np.full(len(names), NO_FOLD)
    _require_enough(part, settings)
    table = pd.DataFrame({BARCODE: names, PART: part, FOLD: fold}).set_index(BARCODE)
    return table.loc[barcodes].reset_index()


def fold_all(split: pd.DataFrame) -> pd.DataFrame:
    """Return barcode and fold of every spot, for the model that draws the map; those without a fold are dealt out.

    Where whole blocks or the section were hidden, all spots are dealt out at random: that model predicts between
    measured spots, and folds of far-off tissue would teach it the wrong mixing weights.
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


def _hide_at_random(names: list[str], settings: SplitSettings, seed: int) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    order = np.random.default_rng([seed, settings.mask, _number(names)]).permutation(len(names))
    n_hidden = max(min(max(round(len(names) * settings.hidden_share), 1), len(names) - settings.n_folds), 0)
    fold = np.full(len(names), NO_FOLD)
    visible = order[n_hidden:]
    fold[visible] = np.arange(len(visible)) % settings.n_folds
    return np.where(fold == NO_FOLD, Part.HIDDEN.value, Part.TRAIN.value), fold


def _hide_block(
    xy_um: NDArray[np.float64], reach_um: float, settings: SplitSettings
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    hidden = cut_blocks(xy_um, settings.n_blocks) == settings.mask % settings.n_blocks
    if hidden.all() or not hidden.any():
        raise _too_few(int(hidden.sum()), int((~hidden).sum()), 0, settings)
    part = np.where(hidden, Part.HIDDEN.value, Part.TRAIN.value)
    part[hidden] = np.where(
        is_within_reach(xy_um[hidden], xy_um[~hidden], reach_um), Part.BUFFER.value, Part.HIDDEN.value
    )
    fold = np.full(len(xy_um), NO_FOLD)
    fold[~hidden] = fold_by_block(xy_um[~hidden], settings.n_folds)
    return part, fold


def _require_enough(part: NDArray[np.str_], settings: SplitSettings) -> None:
    n_hidden, n_train, n_buffer = (int((part == p.value).sum()) for p in (Part.HIDDEN, Part.TRAIN, Part.BUFFER))
    needs_training = settings.protocol != "section"
    if n_hidden < FEWEST_HIDDEN or (needs_training and n_train < settings.n_folds):
        raise _too_few(n_hidden, n_train, n_buffer, settings)


def _too_few(n_hidden: int, n_train: int, n_buffer: int, settings: SplitSettings) -> InputError:
    larger = "Hide halves: split.n_blocks=2. " if settings.n_blocks > HALVES else ""
    steps = {
        "random": "Change split.hidden_share, or use a larger section.",
        "block": f"{larger}Use smaller tiles (tiles.tile_um), a larger section, or split.protocol=random.",
        "section": "Use a larger section.",
    }
    return InputError(
        f"{n_train} spots to learn from, {n_hidden} to score and {n_buffer} too near to a visible one to be scored.",
        f"at least {settings.n_folds} to learn from (split.n_folds) and {FEWEST_HIDDEN} to score.",
        steps[settings.protocol],
    )


def _number(names: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:4], "little")

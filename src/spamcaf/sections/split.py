"""Hiding spots: which are learned from, which are scored."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.names import Part

if TYPE_CHECKING:
    import pandas as pd

    from spamcaf.parameters import SplitSettings

BARCODE, PART, FOLD = "barcode", "part", "fold"
NO_FOLD = -1


def split_spots(barcodes: list[str], settings: SplitSettings, seed: int) -> pd.DataFrame:
    """Hide spots uniformly and fold the visible ones.

    Returns a table with barcode, part (train | hidden) and fold (0 .. n_folds - 1 for training spots, -1 for hidden
    ones); each fold serves as the validation part once. The split follows from the barcodes, the seed and the mask
    alone: the order of the spots does not matter, and another mask is another split.
    """
    import pandas as pd

    names = sorted(barcodes)
    order = np.random.default_rng([seed, settings.mask, _number(names)]).permutation(len(names))
    n_hidden = min(max(round(len(names) * settings.hidden_share), 1), len(names) - settings.n_folds)
    fold = np.full(len(names), NO_FOLD)
    visible = order[n_hidden:]
    fold[visible] = np.arange(len(visible)) % settings.n_folds
    part = np.where(fold == NO_FOLD, Part.HIDDEN.value, Part.TRAIN.value)
    table = pd.DataFrame({BARCODE: names, PART: part, FOLD: fold}).set_index(BARCODE)
    return table.loc[barcodes].reset_index()


def fold_all(split: pd.DataFrame) -> pd.DataFrame:
    """Return barcode and fold of every spot; the hidden ones, which have none, are dealt out over the folds."""
    folded = split[[BARCODE, FOLD]].copy()
    hidden = (split[PART] == Part.HIDDEN).to_numpy()
    folded.loc[hidden, FOLD] = np.arange(hidden.sum()) % (split[FOLD].max() + 1)
    return folded


def barcodes_of(split: pd.DataFrame, part: Part) -> list[str]:
    """Return the barcodes of one part, in the split's order."""
    return split.loc[split[PART] == part.value, BARCODE].tolist()


def _number(names: list[str]) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:4], "little")

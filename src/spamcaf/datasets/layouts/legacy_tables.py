"""The two tables of a legacy ST section: counts and spots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.layouts.damage import reading
from spamcaf.errors import InputError, require_columns
from spamcaf.names import LegacyST

if TYPE_CHECKING:
    import pandas as pd


def read_counts(path: Path) -> pd.DataFrame:
    """Return the counts (spot, gene), indexed by spot id; raise InputError unless they are raw and whole."""
    import numpy as np
    import pandas as pd

    with reading(path, "a tab-separated table"):
        genes = pd.read_csv(path, sep="\t", header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0, 1:]
        table = pd.read_csv(path, sep="\t", index_col=0)
    wrong = [str(c) for c, kind in table.dtypes.items() if kind.kind not in "iuf"]
    values = None if wrong else table.to_numpy()
    if values is None or not values.any() or not np.isfinite(values).all() or (values < 0).any() or (values % 1).any():
        raise InputError(
            f"{path} holds "
            + (f"text in column {wrong[0]}." if wrong else "no, negative, missing or fractional counts."),
            "raw UMI counts, spots in rows and genes in columns.",
            "Use the count table as published, not a normalised one.",
        )
    if values.max() > np.iinfo(np.int32).max:
        raise InputError(f"values above 2^31 in {path}.", "raw UMI counts.", "Fetch the count table again.")
    # pandas renames the second of two equal columns
    _require_once(pd.Index(genes), "gene", path)
    _require_once(table.index, "spot", path)
    return table


def _require_once(names: pd.Index, what: str, path: Path) -> None:
    if not names.is_unique:
        raise InputError(
            f"{what} {names[names.duplicated()][0]} twice in {path}.", "each once.", "Remove the wrong one."
        )


def read_spots(path: Path) -> pd.DataFrame:
    """Return the spots, indexed by their id `XxY`: x and y (int64), pixel_x and pixel_y (px), and selected, 0 or 1.

    All are selected where the file does not say. Raises InputError.
    """
    import numpy as np
    import pandas as pd

    with reading(path, "a tab-separated table"):
        spots = pd.read_csv(path, sep="\t", encoding="utf-8-sig")
    columns: list[str] = [LegacyST.X, LegacyST.Y, LegacyST.PIXEL_X, LegacyST.PIXEL_Y]
    require_columns(list(spots.columns), columns, str(path))
    if LegacyST.SELECTED not in spots:
        spots[LegacyST.SELECTED] = 1
    numbers = spots[[*columns, LegacyST.SELECTED]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    if not np.isfinite(numbers).all(axis=None):
        raise InputError(f"{path} has spots without pixel coordinates.", "numbers.", "Fetch the spot file again.")
    whole = numbers[[LegacyST.X, LegacyST.Y]].round().astype(np.int64)
    if (whole != numbers[[LegacyST.X, LegacyST.Y]]).any(axis=None) or not numbers[LegacyST.SELECTED].isin((0, 1)).all():
        raise InputError(
            f"fractional x or y, or `selected` other than 0 and 1, in {path}.", "array indices.", "Fetch it again."
        )
    spots = numbers.assign(**whole)
    spots.index = whole[LegacyST.X].astype(str) + "x" + whole[LegacyST.Y].astype(str)
    _require_once(spots.index, "spot", path)
    return spots

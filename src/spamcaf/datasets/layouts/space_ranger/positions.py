"""The spot positions of a Space Ranger folder, whichever version wrote them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.layouts.damage import UNREADABLE
from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger.folder import visible
from spamcaf.errors import InputError, require_columns
from spamcaf.names import Position, SpaceRanger

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

logger = logging.getLogger(__name__)

COLUMNS = [column.value for column in Position]
INDICES = [Position.IN_TISSUE.value, Position.ARRAY_ROW.value, Position.ARRAY_COL.value]
SUFFIXES = (".csv", ".txt", ".csv.gz", ".txt.gz", ".parquet")
ROUNDING_PX = 0.01


def read_positions(spatial: Path) -> pd.DataFrame:
    """Return the positions in `spatial`, indexed by barcode.

    Columns are in_tissue, array_row, array_col (int64) and pxl_row_in_fullres, pxl_col_in_fullres (float64, px).
    Whether there is a header is seen from the first cell, not from the file's name. Raises InputError when there is no
    file, when several disagree, or when one holds anything but numbers.
    """
    paths = _find(spatial)
    first = _read(paths[0])
    for path in paths[1:]:
        if not _agree(_read(path), first):
            raise InputError(
                f"{paths[0].name} and {path.name} in {spatial} disagree.",
                "one position file, or equal ones.",
                "Remove the one that does not belong to this section.",
            )
    if len(paths) > 1:
        logger.info("%d equal position files in %s: %s is used", len(paths), spatial, paths[0].name)
    return first


def _find(spatial: Path) -> list[Path]:
    every = [p for p in visible(spatial, f"*{SpaceRanger.POSITIONS_STEM}*") if p.is_file()]
    found = [p for suffix in SUFFIXES for p in every if p.name.endswith(suffix)]
    if not found:
        raise InputError(
            f"no position file in {spatial}, but {listing(spatial)}.",
            f"{SpaceRanger.POSITIONS}, {SpaceRanger.POSITIONS_V1} or a parquet file of that name.",
            "Copy it from the Space Ranger output of this section; unpack it where it is a tar.gz.",
        )
    return found


def _agree(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    one, other = one.sort_index(), other.sort_index()
    # text is rounded, parquet is not
    return one.index.equals(other.index) and np.allclose(one, other, rtol=0, atol=ROUNDING_PX)


def _read(path: Path) -> pd.DataFrame:
    table = _read_cells(path)
    if table.empty:
        raise InputError(f"no positions in {path}.", "one row per spot.", "Fetch the position file again.")
    positions = _as_numbers(table, path).set_index(table[Position.BARCODE].astype(str))
    if not positions.index.is_unique:
        twice = positions.index[positions.index.duplicated()][0]
        raise InputError(f"barcode {twice} twice in {path}.", "each once.", "Fetch the position file again.")
    return positions


def _read_cells(path: Path) -> pd.DataFrame:
    """Return the named cells of a position file, text as text."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = _read_parquet(path)
            require_columns(list(table.columns), COLUMNS, str(path))
            return table[COLUMNS]
        table = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig")
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}).", "a table of positions.", "Fetch it again.") from error
    if table.iloc[0, 0] == Position.BARCODE:
        table = table.iloc[1:].set_axis(table.iloc[0].tolist(), axis=1).reset_index(drop=True)
        require_columns(list(table.columns), COLUMNS, str(path))
        return table[COLUMNS]
    if table.shape[1] != len(COLUMNS):
        raise InputError(
            f"{table.shape[1]} columns without a header in {path}.",
            f"{len(COLUMNS)}: {', '.join(COLUMNS)}.",
            "Copy the position file as Space Ranger wrote it.",
        )
    return table.set_axis(COLUMNS, axis=1)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow

    try:
        return pd.read_parquet(path)
    except pyarrow.ArrowException as error:  # not all of them are ValueErrors
        raise ValueError(str(error)) from error


def _as_numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    import pandas as pd

    numbers = table[COLUMNS[1:]].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = ~np.isfinite(numbers)
    wrong[INDICES] |= numbers[INDICES] % 1 != 0
    wrong[Position.IN_TISSUE] |= ~numbers[Position.IN_TISSUE].isin((0, 1))
    if wrong.to_numpy().any():
        row, column = (int(i) for i in np.argwhere(wrong.to_numpy())[0])
        cell, name = table.iloc[row, column + 1], numbers.columns[column]
        raise InputError(
            f"'{cell}' as {name} of barcode {table.iloc[row, 0]} in {path} ({wrong.to_numpy().sum()} such cells).",
            "numbers; whole ones for array_row and array_col, 0 or 1 for in_tissue.",
            "Copy the position file as Space Ranger wrote it; spreadsheets change it.",
        )
    return numbers.astype(dict.fromkeys(INDICES, np.int64))

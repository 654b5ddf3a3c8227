"""The spot positions of a Space Ranger folder, whichever version wrote them."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.layouts.damage import reading
from spamcaf.datasets.layouts.space_ranger.packed import unpacked
from spamcaf.datasets.layouts.space_ranger.position_text import COLUMNS, read_position_text
from spamcaf.datasets.layouts.space_ranger.sample import POSITIONS, sample_of
from spamcaf.errors import InputError, require_columns
from spamcaf.names import Position, SpaceRanger

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from spamcaf.datasets.layouts.space_ranger.sample import Sample

logger = logging.getLogger(__name__)

INDICES = [Position.IN_TISSUE.value, Position.ARRAY_ROW.value, Position.ARRAY_COL.value]
PARQUET, PARQUET_MAGIC = ".parquet", b"PAR1"
ROUNDING_PX = 0.01


def read_positions(sample: Sample) -> pd.DataFrame:
    """Return the positions of a sample, indexed by barcode.

    Columns are in_tissue, array_row, array_col (int64) and pxl_row_in_fullres, pxl_col_in_fullres (float64, px). What
    a file holds is told by its content, see `read_position_text`. Raises InputError when there is no file, when
    several disagree, or when one holds anything but numbers.
    """
    paths = sample.files(POSITIONS)
    if not paths:
        raise sample.missing(
            "position file", f"{SpaceRanger.POSITIONS}, {SpaceRanger.POSITIONS_V1} or a parquet file of that name."
        )
    if not sample.is_alone and sample.name and sample_of(paths[0].name, POSITIONS) == "":
        logger.warning("%s lies beside matrices of several samples: it is taken for that of %s", paths[0], sample.name)
    # text before parquet, which takes longer
    paths = sorted(paths, key=lambda path: (PARQUET in path.name, path.name))
    first = _read(paths[0])
    for path in paths[1:]:
        if not _agree(_read(path), first):
            raise InputError(
                f"{paths[0].name} and {path.name} in {path.parent} disagree.",
                "one position file, or equal ones.",
                "Remove the one that does not belong to this section.",
            )
    if len(paths) > 1:
        logger.info("%d equal position files in %s: %s is used", len(paths), paths[0].parent, paths[0].name)
    return first


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
    """Return the columns of `Position` as the file has them."""
    with reading(path, "a table of positions"):
        content = unpacked(path)
        if not content.startswith(PARQUET_MAGIC):
            return read_position_text(content, path)
        table = _read_parquet(content)
    require_columns(list(table.columns), COLUMNS, str(path))
    return table[COLUMNS]


def _read_parquet(content: bytes) -> pd.DataFrame:
    """Return the columns; barcodes that pandas stored as the index are the column of that name."""
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

    try:
        columns = parquet.read_table(io.BytesIO(content))
        columns.validate(full=True)  # newer pandas decodes text only when it is used
        table = columns.to_pandas()
    except pyarrow.ArrowException as error:  # not all of them are ValueErrors
        raise ValueError(str(error)) from error
    if Position.BARCODE in table or isinstance(table.index, pd.RangeIndex):
        return table
    return table.rename_axis(Position.BARCODE).reset_index()


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

"""The position files of Space Ranger, whichever version wrote them and whatever saved them again.

The first line tells separator and header. A header names the columns; without one their order is Space Ranger's.
R and pandas add a column of row names, which is passed over, or is the barcode where no other column is called so.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from spamcaf.errors import InputError, require_columns
from spamcaf.names import Position, SpaceRanger
from spamcaf.readers.files import reading, require_once, unpacked
from spamcaf.readers.visium_files import POSITIONS, Sample, sample_of

logger = logging.getLogger(__name__)

COLUMNS = [column.value for column in Position]
INDICES = [Position.IN_TISSUE.value, Position.ARRAY_ROW.value, Position.ARRAY_COL.value]
PARQUET, PARQUET_MAGIC = ".parquet", b"PAR1"
ENCODING = "utf-8-sig"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How the Unicode text of a spreadsheet begins."""
SEURAT = dict(zip(("barcodes", "tissue", "row", "col", "imagerow", "imagecol"), COLUMNS, strict=True))
"""What Seurat calls the columns."""
SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "spaces"}
"""In this order: commas may stand in numbers where tabs or semicolons separate."""
UNNAMED = re.compile(r"|unnamed: \d+")
"""What R and pandas call the column of row names."""
PLACEHOLDER = re.compile(r"[vx]?(\d+)")
"""What they call columns without names: V1, V2, ...; 0, 1, ..."""
TRUTH = {"TRUE": "1", "True": "1", "true": "1", "FALSE": "0", "False": "0", "false": "0"}
THOUSANDS = r"-?\d{1,3},\d{3}"
ROUNDING_PX = 0.01


def read_positions(sample: Sample) -> pd.DataFrame:
    """Return the positions of a sample, indexed by barcode.

    Columns are in_tissue, array_row, array_col (int64) and pxl_row_in_fullres, pxl_col_in_fullres (float64, px).
    Raises InputError when there is no file, when several disagree, or when one holds anything but numbers.
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
        other, expected = _read(path).sort_index(), first.sort_index()
        # text is rounded, parquet is not
        if not (other.index.equals(expected.index) and np.allclose(other, expected, rtol=0, atol=ROUNDING_PX)):
            raise InputError(
                f"{paths[0].name} and {path.name} in {path.parent} disagree.",
                "one position file, or equal ones.",
                "Remove the one that does not belong to this section.",
            )
    if len(paths) > 1:
        logger.info("%d equal position files in %s: %s is used", len(paths), paths[0].parent, paths[0].name)
    return first


def _read(path: Path) -> pd.DataFrame:
    with reading(path, "a table of positions"):
        content = unpacked(path)
        is_parquet = content.startswith(PARQUET_MAGIC)
        table = _read_parquet(content) if is_parquet else _read_text(content, path)
    require_columns(list(table.columns), COLUMNS, str(path))
    table = table[COLUMNS]
    if table.empty:
        raise InputError(f"no positions in {path}.", "one row per spot.", "Fetch the position file again.")
    positions = _as_numbers(table, path).set_index(table[Position.BARCODE].astype(str))
    require_once(positions.index, "barcode", path)
    return positions


def _read_parquet(content: bytes) -> pd.DataFrame:
    """Return the columns; barcodes that pandas stored as the index are the column of that name."""
    from pyarrow import parquet

    columns = parquet.read_table(io.BytesIO(content))
    columns.validate(full=True)  # newer pandas decodes text only when it is used
    table = columns.to_pandas()
    if Position.BARCODE in table or isinstance(table.index, pd.RangeIndex):
        return table
    return table.rename_axis(Position.BARCODE).reset_index()


def _as_numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
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


def _read_text(content: bytes, path: Path) -> pd.DataFrame:
    """Return the columns of `Position` as text; raise InputError where it is not clear which they are."""
    if content.startswith(UTF_16):
        content = content.decode("utf-16").encode()
    lines = enumerate(io.TextIOWrapper(io.BytesIO(content), ENCODING))
    filled = ((number, line.rstrip("\n")) for number, line in lines if line.strip())
    n_before, first = next(filled, (0, ""))
    separator = next((mark for mark in SEPARATORS if mark in first.strip()), ",")
    cells = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
    names = [cell.strip().lower() for cell in cells]
    names = [name if SEURAT.get(name, name) in names else SEURAT.get(name, name) for name in names]
    where = f"{path}, separated by {SEPARATORS[separator]}"
    has_header = _is_header(names)
    if has_header and next(filled, None) is None:
        require_columns(names, COLUMNS[1:], where)
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    table = pd.read_csv(
        io.BytesIO(content),
        sep=separator,
        header=None,
        skiprows=n_before + has_header,
        dtype=str,
        skipinitialspace=True,
        encoding=ENCODING,
    ).apply(lambda column: column.str.strip())
    table = table.dropna(how="all").reset_index(drop=True)  # spreadsheets leave lines of separators
    has_names = has_header and not _are_placeholders(names)
    table = _by_name(table, names, where) if has_names else _by_order(table, where)
    table[Position.IN_TISSUE] = table[Position.IN_TISSUE].replace(TRUTH)
    return table if separator == "," else _without_decimal_comma(table)


def _is_header(names: list[str]) -> bool:
    """Tell names from the cells of a spot, most of which are numbers."""
    if any(name in COLUMNS for name in names) or _are_placeholders(names):
        return True
    return bool(names) and not any(re.fullmatch(r"-?[\d.]+", name) for name in names)


def _are_placeholders(names: list[str]) -> bool:
    matches = [PLACEHOLDER.fullmatch(name) for name in names if not UNNAMED.fullmatch(name)]
    numbers = [int(match[1]) for match in matches if match]
    return len(numbers) == len(matches) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _by_order(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Name the columns of a table without names; a seventh may count the rows, or be empty."""
    n_columns = len(COLUMNS)
    if table.shape[1] == n_columns + 1:
        if table.iloc[:, -1].isna().all():
            table = table.iloc[:, :-1]
        elif _counts_rows(table.iloc[:, 0]) and _is_text(table.iloc[:, 1]):
            table = table.iloc[:, 1:]
    if table.shape[1] != n_columns:
        raise InputError(
            f"{table.shape[1]} columns without a header in {where}.",
            f"{n_columns}: {', '.join(COLUMNS)}.",
            "Copy the position file as Space Ranger wrote it, or write these names into its first line.",
        )
    return table.set_axis(COLUMNS, axis=1)


def _by_name(table: pd.DataFrame, names: list[str], where: str) -> pd.DataFrame:
    """Return the columns of `Position`; `names` may lack that of the row names, as R writes them."""
    n_columns = table.shape[1]
    barcode = ["", *names].index(Position.BARCODE if Position.BARCODE in names else "")
    if n_columns == len(names) + 1 and table.iloc[:, -1].isna().all():
        table = table.iloc[:, :-1]  # each line ends in a separator
    elif n_columns == len(names) + 1 and _is_text(table.iloc[:, barcode]):
        names = ["", *names]
    elif n_columns == len(names) - 1 and not names[-1]:
        names = names[:-1]
    if len(names) != table.shape[1]:
        raise InputError(
            f"{len(names)} names for {n_columns} columns in {where}.",
            "a name for each column.",
            "Copy the position file as Space Ranger wrote it; where it has decimal commas, write points.",
        )
    unnamed = [i for i, name in enumerate(names) if UNNAMED.fullmatch(name) and _is_text(table.iloc[:, i])]
    if Position.BARCODE not in names and len(unnamed) == 1:
        names = [Position.BARCODE.value if i == unnamed[0] else name for i, name in enumerate(names)]
    require_columns(names, COLUMNS, where)
    require_once(pd.Index([name for name in names if name in COLUMNS]), "column", where, "Remove the wrong one.")
    return table.iloc[:, [names.index(name) for name in COLUMNS]].set_axis(COLUMNS, axis=1)


def _is_text(cells: pd.Series) -> bool:
    """Tell whether no cell is a number, and not all are empty."""
    return bool(cells.notna().any() and pd.to_numeric(cells, errors="coerce").isna().all())


def _counts_rows(cells: pd.Series) -> bool:
    numbers = pd.to_numeric(cells, errors="coerce")
    return bool(numbers.iloc[0] in (0, 1) and (numbers.diff().iloc[1:] == 1).all())


def _without_decimal_comma(table: pd.DataFrame) -> pd.DataFrame:
    """Write points for decimal commas; not where all of a column's may be commas between thousands."""
    for name in COLUMNS[1:]:
        commas = table[name][table[name].str.contains(",", regex=False, na=False)]
        are_decimal = not (commas.str.contains(".", regex=False).any() or commas.str.fullmatch(THOUSANDS).all())
        if len(commas) and are_decimal:
            table[name] = table[name].str.replace(",", ".", regex=False)
    return table

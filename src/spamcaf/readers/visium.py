"""A Visium section as Space Ranger 1 to 4 wrote it: matrix, positions of any version, scale factors, thumbnails."""

from __future__ import annotations

import csv
import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError, require_columns
from spamcaf.limits import MAX_COLUMNS, MAX_THUMBNAIL_BYTES, read_json, require_table
from spamcaf.names import SECTION_METADATA, SPATIAL, Position, ScaleFactor, SectionField, SpaceRanger
from spamcaf.readers.anndata_parts import visium_facts
from spamcaf.readers.files import (
    SectionQuery,
    SectionReader,
    make_section,
    reading,
    require_once,
    require_parquet,
    unpacked,
)
from spamcaf.readers.matrix import read_matrix
from spamcaf.readers.visium_files import POSITIONS, Sample, find_image, find_matrix, find_outs, image_folders, sample_of

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

COLUMNS = [column.value for column in Position]
INDICES, PIXELS = COLUMNS[1:4], [Position.PXL_COL.value, Position.PXL_ROW.value]  # x, y
ENCODING = "utf-8-sig"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how the Unicode text of a spreadsheet begins
SEURAT = dict(zip(("barcodes", "tissue", "row", "col", "imagerow", "imagecol"), COLUMNS, strict=True))
"""What Seurat calls the columns."""
SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "spaces"}
"""In this order: commas may stand in numbers where tabs or semicolons separate."""
UNNAMED = re.compile(r"|unnamed: \d+")  # what R and pandas call the column of row names
PLACEHOLDER = re.compile(r"[vx]?(\d+)")  # what they call columns without names: V1, V2, ...; 0, 1, ...
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
        expected = f"{SpaceRanger.POSITIONS}, {SpaceRanger.POSITIONS_V1} or a parquet file of that name."
        raise sample.missing("position file", expected)
    if not sample.is_alone and sample.name and sample_of(paths[0].name, POSITIONS) == "":
        logger.warning("%s lies beside matrices of several samples: it is taken for that of %s", paths[0], sample.name)
    # text before parquet, which takes longer
    paths = sorted(paths, key=lambda path: (".parquet" in path.name, path.name))
    positions = _read(paths[0])
    for path in paths[1:]:
        first, other = positions.sort_index(), _read(path).sort_index()
        # text is rounded, parquet is not
        if not (other.index.equals(first.index) and np.allclose(other, first, rtol=0, atol=ROUNDING_PX)):
            raise InputError(
                f"{paths[0].name} and {path.name} in {path.parent} disagree.",
                "one position file, or equal ones.",
                "Remove the one that does not belong to this section.",
            )
    if len(paths) > 1:
        logger.info("%d equal position files in %s: %s is used", len(paths), paths[0].parent, paths[0].name)
    return positions


def _read(path: Path) -> pd.DataFrame:
    with reading(path, "a table of positions"):
        content = unpacked(path)
        table = _read_parquet(content, path) if content.startswith(b"PAR1") else _read_text(content, path)
    require_columns(list(table.columns), COLUMNS, str(path))
    table = table[COLUMNS]
    if table.empty:
        raise InputError(f"no positions in {path}.", "one row per spot.", "Fetch the position file again.")
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
    positions = numbers.astype(dict.fromkeys(INDICES, np.int64)).set_index(table[Position.BARCODE].astype(str))
    require_once(positions.index, "barcode", path)
    return positions


def _read_parquet(content: bytes, path: Path) -> pd.DataFrame:
    """Return the columns; barcodes that pandas stored as the index are the column of that name."""
    from pyarrow import parquet

    require_parquet(content, path)
    columns = parquet.read_table(io.BytesIO(content))
    columns.validate(full=True)  # newer pandas decodes text only when it is used
    table = columns.to_pandas()
    if Position.BARCODE in table or isinstance(table.index, pd.RangeIndex):
        return table
    return table.rename_axis(Position.BARCODE).reset_index()


def _read_text(content: bytes, path: Path) -> pd.DataFrame:
    """Return the columns of `Position` as text; raise InputError where it is not clear which they are."""
    if content.startswith(UTF_16):
        content = content.decode("utf-16").encode()
    lines = enumerate(io.TextIOWrapper(io.BytesIO(content), ENCODING))
    filled = ((number, line.rstrip("\n")) for number, line in lines if line.strip())
    n_before, first = next(filled, (0, ""))
    separator = next((mark for mark in SEPARATORS if mark in first.strip()), ",")
    require_table(io.BytesIO(content), separator, MAX_COLUMNS, path)
    names = next(csv.reader([first.lower()], delimiter=separator, skipinitialspace=True), [])
    names = [name.strip() for name in names]
    names = [name if SEURAT.get(name, name) in names else SEURAT.get(name, name) for name in names]
    where = f"{path}, separated by {SEPARATORS[separator]}"
    has_header = _is_header(names)
    if has_header and next(filled, None) is None:
        require_columns(names, COLUMNS[1:], where)
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    text: dict[str, Any] = {"header": None, "dtype": str, "skipinitialspace": True, "encoding": ENCODING}
    table = pd.read_csv(io.BytesIO(content), sep=separator, skiprows=n_before + has_header, **text)
    table = table.apply(lambda column: column.str.strip())
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
        numbers = pd.to_numeric(table.iloc[:, 0], errors="coerce")
        if table.iloc[:, -1].isna().all():
            table = table.iloc[:, :-1]
        elif numbers.iloc[0] in (0, 1) and (numbers.diff().iloc[1:] == 1).all() and _is_text(table.iloc[:, 1]):
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


def _without_decimal_comma(table: pd.DataFrame) -> pd.DataFrame:
    """Write points for decimal commas; not where all of a column's may be commas between thousands."""
    for name in COLUMNS[1:]:
        commas = table[name][table[name].str.contains(",", regex=False, na=False)]
        are_decimal = not (commas.str.contains(".", regex=False).any() or commas.str.fullmatch(THOUSANDS).all())
        if len(commas) and are_decimal:
            table[name] = table[name].str.replace(",", ".", regex=False)
    return table


SCALEFACTORS = re.escape(SpaceRanger.SCALEFACTORS) + r"(?:\.gz)?"
THUMBNAILS = {"hires": (SpaceRanger.HIRES, ScaleFactor.HIRES), "lowres": (SpaceRanger.LOWRES, ScaleFactor.LOWRES)}
DIAMETERS = (ScaleFactor.SPOT, ScaleFactor.FIDUCIAL)
MAX_OFF_TISSUE = 100_000  # above so many spots off the tissue,
NEAR_STEPS = 8  # only those within so many steps of the array from tissue are kept


class VisiumReader(SectionReader):
    """One Visium section: a hexagonal lattice of 55 um spots, 100 um apart. Its folder holds matrix and `spatial`."""

    kind = "Space Ranger"

    def read(self) -> AnnData:
        """Return the section, see `SectionReader`: all spots that have a position, on and off the tissue."""
        section = read_spots(self.path, self.query.section)
        factors = section.uns[SPATIAL][self.query.section]["scalefactors"]
        if ScaleFactor.BIN in factors:
            raise InputError(
                f"bins of {factors[ScaleFactor.BIN]:g} um of Visium HD in {self.path}, by the scale factors.",
                "the files of one bin size in a folder of their own.",
                f"Move them into a folder square_{factors[ScaleFactor.BIN]:03.0f}um, with scalefactors_json.json "
                "unpacked and called so, and pass it: --params raw_root=<folder>.",
            )
        section.uns[SECTION_METADATA] |= visium_facts(factors)
        return section

    def sources(self) -> list[Path]:
        """Return matrix, positions and scale factors."""
        return spot_files(self.path, self.query.section)

    def image(self) -> Path:
        """Return the full-resolution image, see `find_image`."""
        return find_image(image_folders(self.path), self.query.section)


def find(query: SectionQuery) -> VisiumReader | None:
    """Return the Visium section, or None where there is no Space Ranger folder of it."""
    outs = find_outs(query)
    return VisiumReader(outs, query) if outs else None


def read_scalefactors(sample: Sample) -> dict[str, float]:
    """Return the scale factors that Space Ranger wrote; raise InputError when they are missing or make no sense.

    A diameter that is missing, null or 0 is left out: the array's pitch is known without it.
    """
    paths = sample.files(SCALEFACTORS)
    if not paths:
        expected = "the scale factors, without which the size of a pixel is unknown."
        raise sample.missing(SpaceRanger.SCALEFACTORS, expected)
    with reading(paths[0], "numbers by name"):
        record = read_json(paths[0])
        if not isinstance(record, dict):
            raise ValueError("it holds no numbers by name")
    factors = {}
    for key in ScaleFactor:
        value = record.get(key)
        if value is None or (key in DIAMETERS and value == 0):
            continue
        try:
            number = np.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = np.nan
        if not (np.isfinite(number) and number > 0):
            raise InputError(f"{key.value} = {value!r} in {paths[0]}.", "a number above 0.", "Copy the file again.")
        factors[key.value] = number
    return factors


def read_thumbnails(sample: Sample, factors: dict[str, float]) -> dict[str, NDArray[np.uint8]]:
    """Return the thumbnails of known scale that can be read, (row, column, 3) uint8; warn of the others."""
    from PIL import Image

    images: dict[str, NDArray[np.uint8]] = {}
    for name, (file, factor) in THUMBNAILS.items():
        if factor not in factors:
            logger.warning("No %s in %s: maps are drawn without %s", factor.value, sample.folder, file.value)
            continue
        path = next(iter(sample.files(re.escape(file) + r"(?:\.gz)?")), None)
        if path is None:
            logger.warning("No %s in %s: maps are drawn without it", file.value, sample.places[0])
            continue
        try:
            with reading(path, "an image"), Image.open(io.BytesIO(unpacked(path, MAX_THUMBNAIL_BYTES))) as image:
                images[name] = np.asarray(image.convert("RGB"))
        except InputError as error:
            logger.warning("%s Maps are drawn without it.", error)
    return images


def spot_files(folder: Path, name: str) -> list[Path]:
    """Return the files that `read_spots` reads, but for thumbnails."""
    path, sample = find_matrix(folder, name)
    return [path, *sample.files(SCALEFACTORS), *sample.files(POSITIONS)]


def read_spots(folder: Path, name: str) -> AnnData:
    """Return what Visium and Visium HD have in common: counts joined with positions by barcode.

    Scale factors and thumbnails are in `uns["spatial"][name]`; the facts hold the name, how many barcodes had no
    position, and where the spots off the tissue lie, which the filtered matrix leaves out. Raises InputError.
    """
    path, sample = find_matrix(folder, name)
    factors = read_scalefactors(sample)
    positions = read_positions(sample)
    matrix = read_matrix(path)
    placed = matrix.obs_names.isin(positions.index)
    if not placed.any():
        bare = [names.str.removesuffix("-1") for names in (matrix.obs_names, positions.index)]
        agree = "They agree without it: add it." if bare[0].isin(bare[1]).any() else "If not, they are of two sections."
        raise InputError(
            f"no barcode in common in {folder}: {matrix.obs_names[0]} in the matrix, {positions.index[0]} in the "
            "position file.",
            "the same barcodes.",
            f"Does one of the files lack the '-1' at the end of its barcodes? {agree}",
        )
    where = positions.loc[matrix.obs_names[placed]].rename_axis(None)
    facts = {
        SectionField.NAME.value: name,
        SectionField.UNMATCHED.value: int((~placed).sum()),
        SectionField.OFF_TISSUE.value: _off_tissue(positions, matrix.obs_names),
    }
    # a copy of the counts of Visium HD takes gigabytes
    counts = matrix.X if placed.all() else matrix.X[np.flatnonzero(placed)]
    section = make_section(counts, where[INDICES], matrix.var, where[PIXELS].to_numpy(np.float64), facts)
    section.uns[SPATIAL] = {name: {"images": read_thumbnails(sample, factors), "scalefactors": factors}}
    return section


def _off_tissue(positions: pd.DataFrame, in_matrix: pd.Index) -> NDArray[np.float64]:
    """Return (x, y) of the spots off the tissue that the matrix has no row of, (spot, 2).

    Of millions of bins, only those near tissue: the others tell nothing of where tissue ends.
    """
    is_off = (positions[Position.IN_TISSUE] == 0).to_numpy()
    if is_off.sum() > MAX_OFF_TISSUE:
        from scipy.ndimage import binary_dilation

        indices = (Position.ARRAY_ROW, Position.ARRAY_COL)
        row, column = (positions[key].to_numpy() - positions[key].min() for key in indices)
        array = np.zeros((row.max() + 1, column.max() + 1), bool)
        array[row[~is_off], column[~is_off]] = True
        is_off &= binary_dilation(array, iterations=NEAR_STEPS)[row, column]
    return positions.loc[is_off & ~positions.index.isin(in_matrix), PIXELS].to_numpy(np.float64)

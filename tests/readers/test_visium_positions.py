"""Position files read the same whoever saved them again; where it is not clear what they hold, that is reported."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from spamcaf.errors import InputError
from spamcaf.readers.visium import read_positions
from spamcaf.readers.visium_files import Sample

COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
BARCODES = ["ACGTACGTACGTACGT-1", "CCGTACGTACGTACGT-1", "GCGTACGTACGTACGT-1", "TCGTACGTACGTACGT-1"]


def table() -> pd.DataFrame:
    """The first spot is off the tissue, and lies at row and column 0."""
    rows = [
        (0, 0, 0, 2510.5, 12174.25),
        (1, 0, 2, 2511.5, 12312.25),
        (1, 1, 1, 2630.5, 12243.25),
        (1, 1, 3, 2631.5, 9.25),
    ]
    return pd.DataFrame([(b, *row) for b, row in zip(BARCODES, rows, strict=True)], columns=COLUMNS)


def as_csv(**options: object) -> str:
    return table().to_csv(**({"index": False} | options))  # type: ignore[call-overload]


def as_r(made: pd.DataFrame) -> str:
    """As write.csv of R: row names 1, 2, ..., and all text in quotes."""
    return made.set_axis([str(i) for i in range(1, len(made) + 1)]).to_csv(quoting=csv.QUOTE_NONNUMERIC)


def shorter_header(text: str, mark: str) -> str:
    """As write.table of R: no name above the row names, which are numbers."""
    names, *rows = text.splitlines()
    return "\n".join([names, *(f'"{i}"{mark}{row}' for i, row in enumerate(rows, 1))]) + "\n"


def indexed() -> pd.DataFrame:
    return table().set_index("barcode")


HEADLESS = as_csv(header=False)
VARIANTS: dict[str, str | bytes] = {
    "as written": as_csv(),
    "first Space Ranger": HEADLESS,
    "pandas with its index": as_csv(index=True),
    "saved twice by pandas": table().reset_index(names="Unnamed: 0").to_csv(),
    "barcode as index": indexed().to_csv(),
    "barcode as unnamed index": indexed().rename_axis(None).to_csv(),
    "barcode as index called Unnamed: 0": indexed().rename_axis("Unnamed: 0").to_csv(),
    "pandas, index and no header": table().to_csv(header=False),
    "pandas, no names in the first place": table().set_axis(range(6), axis=1).to_csv(),
    "pandas, no names, no index": table().set_axis(range(6), axis=1).to_csv(index=False),
    "R's write.csv": as_r(table()),
    "R's write.csv, no names in the first place": as_r(table().set_axis([f"V{i}" for i in range(1, 7)], axis=1)),
    "R's write.table": shorter_header(as_csv(sep=" ", quoting=2), " "),
    "R's write.table with tabs": shorter_header(as_csv(sep="\t"), "\t"),
    "R's write.table, barcodes as row names": indexed().to_csv(sep="\t").replace("barcode\t", "", 1),
    "R's write.csv2": as_csv(sep=";", decimal=",", quoting=2),
    "semicolons, no header": as_csv(sep=";", header=False),
    "semicolons, decimal comma, no header": as_csv(sep=";", decimal=",", header=False),
    "tabs": as_csv(sep="\t"),
    "tabs, no header": as_csv(sep="\t", header=False),
    "barcode last": table()[COLUMNS[::-1]].to_csv(index=False),
    "barcode second": table()[[COLUMNS[1], COLUMNS[0], *COLUMNS[2:]]].to_csv(index=False),
    "another order and more columns": table()[[*COLUMNS[3:], *COLUMNS[:3]]].assign(sum_umi=3).to_csv(index=False),
    "all quoted": as_csv(quoting=1),
    "floats": table().astype(dict.fromkeys(COLUMNS[1:], float)).to_csv(index=False),
    "TRUE and FALSE": table().assign(in_tissue=["FALSE", *["TRUE"] * 3]).to_csv(index=False),
    "True and False": table().astype({"in_tissue": bool}).to_csv(index=False),
    "Windows": as_csv().replace("\n", "\r\n"),
    "Windows, no header": HEADLESS.replace("\n", "\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + as_csv().encode(),
    "byte order mark, no header": b"\xef\xbb\xbf" + HEADLESS.encode(),
    "names in capitals": as_csv().replace("barcode,in_tissue", "Barcode, In_Tissue"),
    "spaces about the cells": as_csv().replace(",", " , "),
    "blank lines": "\n\n" + as_csv().replace("\n", "\n\n"),
    "separator at the end of lines": as_csv().replace("\n", ",\n"),
    "separator at the end of rows": as_csv(header=False).replace("\n", ",\n"),
    "separator at the end of rows under a header": ",".join(COLUMNS) + "\n" + HEADLESS.replace("\n", ",\n"),
    "no end of line": as_csv().rstrip("\n"),
    "lines of separators, as spreadsheets leave them": as_csv() + ",,,,,\n,,,,,\n",
    "Unicode text of a spreadsheet": as_csv(sep="\t").encode("utf-16"),
    "Seurat's names": table().set_axis(["barcodes", "tissue", "row", "col", "imagerow", "imagecol"], axis=1).to_csv(
        index=False
    ),
    "gzipped": gzip.compress(as_csv().encode()),
}  # fmt: skip


def write(folder: Path, content: str | bytes, name: str = "tissue_positions.csv") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def read(folder: Path) -> pd.DataFrame:
    return read_positions(Sample(folder, "", "S1"))


def require_same(positions: pd.DataFrame) -> None:
    assert positions.index.tolist() == BARCODES
    assert positions.columns.tolist() == COLUMNS[1:]
    np.testing.assert_array_equal(positions, table()[COLUMNS[1:]])
    assert [kind.kind for kind in positions.dtypes] == list("iiiff")


@pytest.mark.parametrize("content", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("name", ["tissue_positions.csv", "tissue_positions_list.csv.gz", "tissue_positions.tsv"])
def test_every_text_gives_the_same_spots(tmp_path: Path, content: str | bytes, name: str) -> None:
    write(tmp_path, content, name)
    require_same(read(tmp_path))


PARQUETS: dict[str, Callable[[], pd.DataFrame]] = {
    "as written": table,
    "barcode as index": indexed,
    "barcode as unnamed index": lambda: indexed().rename_axis(None),
    "rows taken from a larger table": lambda: table().set_axis([3, 5, 8, 9]),
    "more columns": lambda: table().assign(cluster=1)[["cluster", *COLUMNS[::-1]]],
    "bool": lambda: table().astype({"in_tissue": bool}),
}


@pytest.mark.parametrize("made", PARQUETS.values(), ids=PARQUETS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_parquet_gives_the_same_spots(tmp_path: Path, made: Callable[[], pd.DataFrame], zipped: bool) -> None:
    path = tmp_path / "tissue_positions.parquet"
    made().to_parquet(path)
    if zipped:
        write(tmp_path, gzip.compress(path.read_bytes()), "tissue_positions.parquet.gz")
        path.unlink()
    require_same(read(tmp_path))


def test_the_first_spot_is_never_taken_for_a_header(tmp_path: Path) -> None:
    """R's read.csv takes it for one where there is none, and makes names of its cells."""
    names = "ACGTACGTACGTACGT.1,X0,X0.1,X0.2,X2510.5,X12174.25\n"
    write(tmp_path, names + "".join(HEADLESS.splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"columns acgtacgtacgtacgt\.1, x0, .*separated by commas.*also barcode"):
        read(tmp_path)
    pandas = "ACGTACGTACGTACGT-1,0,0.1,0.2,2510.5,12174.25\n"  # which counts equal names
    write(tmp_path, pandas + "".join(HEADLESS.splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"'0\.1' as array_row of barcode ACGTACGTACGTACGT-1"):
        read(tmp_path)


DEFECTS: dict[str, tuple[str | bytes, str]] = {
    "another separator": (as_csv(sep="|"), "columns .*separated by commas"),
    "no barcodes": (table()[COLUMNS[1:]].to_csv(), r"columns , in_tissue, .*separated by commas.* also barcode"),
    "two columns of one name": (
        as_csv().replace("array_row", "array_col", 1).replace("pxl_row", "array_row,pxl_row", 1), "names for 6 columns",
    ),
    "column twice": (
        table().assign(more=7).to_csv(index=False).replace("more", "array_row"), "column array_row twice",
    ),
    "decimal commas between commas": (as_csv().replace(".", ","), "6 names for 8 columns .*separated by commas"),
    "one decimal comma between commas": (
        re.sub(r"\.5,(\d+)\.\d+", r",5,\1", as_csv()), "6 names for 7 columns .*separated by commas",
    ),
    "decimal commas between commas, no header": (HEADLESS.replace(".", ","), "8 columns without a header"),
    "commas that may separate thousands": (
        table().assign(pxl_col_in_fullres=["12,174", "12,312", "12,243", "9,250"]).to_csv(index=False, sep=";"),
        "'12,174' as pxl_col",
    ),
    "thousands and decimals": (
        table().assign(pxl_col_in_fullres=["12.174,25", "1,5", "2,5", "3,5"]).to_csv(index=False, sep=";"),
        "'12.174,25' as pxl_col",
    ),
    "seven columns without a header": (table().assign(more=3).to_csv(index=False, header=False), "7 columns without"),
    "rows counted by halves": (table().set_axis([0, 2, 1, 3]).to_csv(header=False), "7 columns without a header"),
    "a row too long": (as_csv() + "TTTTTTTTTTTTTTTT-1,1,0,0,1,2,3\n", r"cannot be read \(.*[Ee]xpected 6 fields"),
    "a row too short": (as_csv() + "TTTTTTTTTTTTTTTT-1,1,0,0\n", "'nan' as pxl_row_in_fullres of barcode TTTT"),
    "header alone, of other names": ("a,b,c\n", "columns a, b, c"),
    "one spot twice": (as_csv() + HEADLESS[:60].splitlines()[0] + "\n", "barcode ACGTACGTACGTACGT-1 twice"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), DEFECTS.values(), ids=DEFECTS)
def test_what_is_not_clear_is_reported(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert re.fullmatch(f"Found: .*{message}.*", str(caught.value), re.DOTALL), caught.value
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_fault_of_ours_is_no_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """As where a library no longer knows an argument that it is called with."""
    if suffix == ".csv":
        write(tmp_path, as_csv())
        monkeypatch.setattr(pd, "read_csv", lambda: None)
    else:
        table().to_parquet(tmp_path / "tissue_positions.parquet")
        monkeypatch.setattr(parquet, "read_table", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        read(tmp_path)

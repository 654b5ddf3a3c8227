"""Counts without an image, of other sections, patients or single cells, that gene programs may be learned from."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import pandas as pd
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.limits import require_regular
from spamcaf.names import GENE_IDS, LegacyST
from spamcaf.readers.anndata_parts import refuse_prediction
from spamcaf.readers.files import SectionQuery, reading
from spamcaf.readers.find import find_reader
from spamcaf.readers.h5ad import read_h5ad_table
from spamcaf.readers.legacy_st import read_counts
from spamcaf.readers.matrix import MTX, read_matrix

if TYPE_CHECKING:
    from anndata import AnnData

TABLE_SUFFIXES, CSV_SUFFIXES = (".tsv", ".tsv.gz"), (".csv", ".csv.gz")
H5AD, H5 = ".h5ad", ".h5"
EXPECTED = "an .h5ad, Space Ranger's .h5 or matrix folder, or a table (.tsv, .csv) of spots x genes"


def read_reference(path: Path) -> AnnData:
    """Return raw counts: X (spot or cell, gene) CSR int32, symbols as gene names, `var["gene_ids"]`.

    Raises InputError where `path` is no file of a known kind or holds no raw counts.
    """
    from anndata import AnnData

    name = path.name.lower()
    if path.is_dir() or name.endswith(H5) or MTX in name:
        return read_matrix(path)
    with reading(path, EXPECTED):
        require_regular(path)
    if name.endswith(H5AD) and h5py.is_hdf5(path):
        with reading(path, "a whole AnnData file"):
            table = read_h5ad_table(path)
            refuse_prediction(table.uns, str(path))
            counts = table.counts()
        return AnnData(counts.values, obs=pd.DataFrame(index=table.obs.index.astype(str)), var=counts.var)
    if name.endswith((*TABLE_SUFFIXES, *CSV_SUFFIXES)):
        values = read_counts(path, "," if name.endswith(CSV_SUFFIXES) else "\t")
        genes = values.columns.astype(str)
        obs = pd.DataFrame(index=values.index.astype(str))
        return AnnData(csr_matrix(values.to_numpy().astype("int32")), obs, pd.DataFrame({GENE_IDS: genes}, index=genes))
    raise InputError(f"{path} as a reference.", f"{EXPECTED}.", "Name another file: --params reference=<file>.")


class Reference(NamedTuple):
    """Counts that were found: `read` returns them, `sources` are the files and folders that it reads."""

    read: Callable[[], AnnData]
    sources: list[Path]


def find_reference(name: str, project: Path, stored: Path, raw_root: Path) -> Reference:
    """Find the counts of `name`: an ingested section, one of `raw_root`, or a file or folder.

    Parameters
    ----------
    name : str
        Name of a section, or path of a file or folder, from the project's root where it is relative.
    project, stored, raw_root : Path
        The project's root, the layer of ingested sections, and the folder of raw ones.

    Raises
    ------
    InputError
        Where there is none; nothing is read yet.
    """
    tables = [raw_root / LegacyST.COUNTS / f"{name}{suffix}" for suffix in TABLE_SUFFIXES]
    for path in (stored / name / "section.h5ad", *tables, project / Path(name).expanduser()):
        if os.path.exists(path):  # which has an answer for a name that no file can have, too
            return Reference(partial(read_reference, path), [path])
    try:
        reader = find_reader(SectionQuery(raw_root, name))
        return Reference(reader.read, reader.sources())
    except (OSError, ValueError) as error:  # also of a name that no file can have
        raise InputError(
            f"no reference '{name}': no such file, no ingested section of that name in {stored}, none in {raw_root}.",
            f"the name of a section, or the path of {EXPECTED}.",
            "Correct it, with + between several: --params reference=C1+D1; or leave it out.",
        ) from error

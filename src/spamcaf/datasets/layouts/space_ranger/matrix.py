"""The count matrix of a Space Ranger folder: h5 or Matrix Market, gene expression only."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.hdf5 import refuse_foreign_content
from spamcaf.datasets.layouts.damage import UNREADABLE
from spamcaf.datasets.layouts.genes import name_genes
from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger.folder import visible
from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SpaceRanger

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData

GENE_EXPRESSION = "Gene Expression"
INDEX_BLOCK = 10_000_000
"""How many indices are checked at once: those of Visium HD take gigabytes."""
H5_PARTS = ("barcodes", "data", "indices", "indptr", "shape", "features/id", "features/name", "features/feature_type")


def read_matrix(outs: Path, section: str) -> AnnData:
    """Return the counts of `section` in `outs`: X (spot, gene) CSR int32, barcodes and unique symbols as names.

    The h5 file is taken where there is one, else the Matrix Market folder. `var["gene_ids"]` holds the Ensembl ids. A
    symbol that stands for several genes keeps its name at the first; the others become `<symbol>_<Ensembl id>`.
    Raises InputError when there is not exactly one matrix, or when it is damaged or holds anything but counts.
    """
    path = _find(outs, section)
    try:
        with warnings.catch_warnings():
            # anndata advises to rename, which is done below
            warnings.filterwarnings("ignore", message="(Variable|Observation) names are not unique")
            matrix = _read_folder(path) if path.is_dir() else _read_h5(path)
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}).", "a whole count matrix.", "Fetch it again.") from error
    return _name_genes(_whole_counts(matrix, path), path)


def _find(outs: Path, section: str) -> Path:
    files = visible(outs, f"*{SpaceRanger.MATRIX_H5}")
    found = files or [p for p in visible(outs, f"*{SpaceRanger.MATRIX_FOLDER}") if p.is_dir()]
    own = [p for p in found if p.name.startswith((SpaceRanger.MATRIX_FOLDER, f"{section}_"))]
    candidates = own or found
    if len(candidates) == 1:
        return candidates[0]
    if not candidates and visible(outs, f"*{SpaceRanger.RAW_FOLDER}*"):
        next_step = "The raw matrix also holds barcodes without tissue: copy the filtered one from the same run."
    elif not candidates:
        next_step = "Copy it from the Space Ranger output of this section; unpack it where it is a tar.gz."
    else:
        next_step = "Move the others away, or name the section as its files begin."
    raise InputError(
        f"{len(candidates)} filtered count matrices in {outs}, which holds {listing(outs)}.",
        f"one: {SpaceRanger.MATRIX_H5}, <section>_{SpaceRanger.MATRIX_H5} or the folder {SpaceRanger.MATRIX_FOLDER}.",
        next_step,
    )


def _read_h5(path: Path) -> AnnData:
    import h5py
    import scanpy as sc

    refuse_foreign_content(path)
    with h5py.File(path) as file:
        missing = [part for part in H5_PARTS if f"matrix/{part}" not in file]
        if missing:
            raise ValueError(f"it has no matrix/{missing[0]}")
        _require_sound(file["matrix"])
    return sc.read_10x_h5(path)


def _require_sound(matrix: h5py.Group) -> None:
    """Raise ValueError where the compressed matrix contradicts itself: scipy would read beyond its arrays."""
    n_genes, n_spots = (int(n) for n in matrix["shape"][:])
    starts, indices = matrix["indptr"][:].astype(np.int64), matrix["indices"]
    lengths = {
        "barcodes": (len(matrix["barcodes"]), n_spots),
        "genes": (len(matrix["features/id"]), n_genes),
        "values": (len(matrix["data"]), len(indices)),
        "columns": (len(starts), n_spots + 1),
    }
    wrong = [
        f"{found} {what} where {expected} belong" for what, (found, expected) in lengths.items() if found != expected
    ]
    if wrong:
        raise ValueError(wrong[0])
    if starts[0] != 0 or starts[-1] != len(indices) or (np.diff(starts) < 0).any():
        raise ValueError("its columns do not end where the next begin")
    for begin in range(0, len(indices), INDEX_BLOCK):
        block = indices[begin : begin + INDEX_BLOCK]
        if block.min() < 0 or block.max() >= n_genes:
            raise ValueError("it names genes that it does not have")


def _read_folder(folder: Path) -> AnnData:
    """Read what `scanpy.read_10x_mtx` reads, and also plain files and feature tables of two columns."""
    from anndata import AnnData
    from scipy.io import mmread

    features = _read_names(folder, "features.tsv", "genes.tsv")
    if features.shape[1] == 1:
        raise InputError(f"a feature table of one column in {folder}.", "gene ids and symbols.", "Fetch it again.")
    barcodes = _read_names(folder, "barcodes.tsv")[0]
    matrix = AnnData(mmread(_member(folder, "matrix.mtx")).T.tocsr())
    matrix.obs_names = barcodes.to_numpy(str)
    matrix.var_names = features[1].to_numpy(str)
    matrix.var[GENE_IDS] = features[0].to_numpy(str)
    kind = 2
    return matrix[:, (features[kind] == GENE_EXPRESSION).to_numpy()].copy() if kind in features else matrix


def _read_names(folder: Path, *names: str) -> pd.DataFrame:
    import pandas as pd

    # there are genes called NA and NAN
    return pd.read_csv(_member(folder, *names), sep="\t", header=None, dtype=str, keep_default_na=False)


def _member(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    raise InputError(
        f"no {names[0]} in {folder}, but {listing(folder)}.",
        "matrix.mtx, features.tsv and barcodes.tsv, gzipped or not.",
        "Fetch the whole folder.",
    )


def _whole_counts(matrix: AnnData, path: Path) -> AnnData:
    values = matrix.X.data
    is_whole = values.dtype.kind in "iu" or bool(np.isfinite(values).all() and not (values % 1).any())
    if not values.any() or not is_whole or (values < 0).any():
        raise InputError(
            f"{path} holds no gene expression, or negative, missing or fractional values.",
            "raw UMI counts.",
            f"Use {SpaceRanger.MATRIX_H5} as Space Ranger wrote it.",
        )
    if not matrix.obs_names.is_unique:
        twice = matrix.obs_names[matrix.obs_names.duplicated()][0]
        raise InputError(f"barcode {twice} twice in {path}.", "each once.", "Fetch the matrix again.")
    matrix.X = matrix.X.astype(np.int32)
    return matrix


def _name_genes(matrix: AnnData, path: Path) -> AnnData:
    repeated = matrix.var[GENE_IDS].duplicated().to_numpy()
    if repeated.any():
        twice = matrix.var[GENE_IDS].to_numpy()[repeated][0]
        raise InputError(f"gene {twice} twice in {path}.", "each gene once.", "Fetch the matrix again.")
    matrix.var = name_genes(matrix.var, str(path))
    return matrix

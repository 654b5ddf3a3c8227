"""The count matrix of a Space Ranger folder: h5 or Matrix Market, gene expression only."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.space_ranger_folder import listing
from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SpaceRanger

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger(__name__)

GENE_EXPRESSION = "Gene Expression"
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
    except (OSError, EOFError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}).", "a whole count matrix.", "Fetch it again.") from error
    return _name_genes(_whole_counts(matrix, path), path)


def _find(outs: Path, section: str) -> Path:
    files = sorted(outs.glob(f"*{SpaceRanger.MATRIX_H5}"))
    found = files or sorted(p for p in outs.glob(f"*{SpaceRanger.MATRIX_FOLDER}") if p.is_dir())
    own = [p for p in found if p.name.startswith((SpaceRanger.MATRIX_FOLDER, f"{section}_"))]
    candidates = own or found
    if len(candidates) == 1:
        return candidates[0]
    raise InputError(
        f"{len(candidates)} count matrices in {outs}, which holds {listing(outs)}.",
        f"one: {SpaceRanger.MATRIX_H5}, <section>_{SpaceRanger.MATRIX_H5} or the folder {SpaceRanger.MATRIX_FOLDER}.",
        "Move the others away, or name the section as its files begin.",
    )


def _read_h5(path: Path) -> AnnData:
    import h5py
    import scanpy as sc

    with h5py.File(path) as file:
        missing = [part for part in H5_PARTS if f"matrix/{part}" not in file]
    if missing:
        raise ValueError(f"it has no matrix/{missing[0]}")
    return sc.read_10x_h5(path)


def _read_folder(folder: Path) -> AnnData:
    """Read what `scanpy.read_10x_mtx` reads, and also plain files and feature tables of two columns."""
    from anndata import AnnData
    from scipy.io import mmread

    features = _read_names(folder, "features.tsv", "genes.tsv")
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
    if values.size == 0 or not np.isfinite(values).all() or (values < 0).any() or (values % 1).any():
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
    """Make symbols unique, see `read_matrix`."""
    symbols, ids = matrix.var_names.to_numpy(str), matrix.var[GENE_IDS].to_numpy(str)
    again = matrix.var_names.duplicated()
    names = [f"{s}_{i}" if repeated else s for s, i, repeated in zip(symbols, ids, again, strict=True)]
    if len(set(names)) != len(names):
        raise InputError(f"a gene id twice in {path}.", "each gene once.", "Fetch the matrix again.")
    if again.any():
        logger.info("%d genes share a symbol with another: named <symbol>_<gene id>", again.sum())
    matrix.var = matrix.var[[GENE_IDS]].copy()
    matrix.var_names = names
    return matrix

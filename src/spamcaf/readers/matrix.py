"""Count matrices of Space Ranger, h5 or Matrix Market, and the naming of their genes."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SpaceRanger
from spamcaf.readers.files import as_texts, is_gzipped, listing, reading, refuse_foreign_content, still_packed, unpacked

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

ID_COLUMNS = (GENE_IDS, "gene_id", "ensembl_id", "feature_id")
SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "symbol")
"""Looked at where the index holds Ensembl ids."""
ENSEMBL = r"ENS[A-Z]*G\d{6,}(\.\d+)?"
ENSEMBL_SHARE = 0.9
"""Spike-ins and transgenes have other ids."""
FEATURE_TYPES, GENE_EXPRESSION = "feature_types", "Gene Expression"
OF_GENES = frozenset({"geneexpression", "gene", "gex", "rna"})
UNSAID = frozenset({"", "nan", "none", "na", "null"})
"""Both without case, spaces, underscores and other signs. Joining sections leaves genes of one of them without a type.
"""
MAX_NAMED = 10


def is_expression(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows of `var` are genes, by the column feature_types.

    A gene is what is called one, however it is spelled, and what has no type. Antibodies and other features are
    counted and named in a warning. Raises InputError where no gene is left.
    """
    if FEATURE_TYPES not in var:
        return np.ones(len(var), bool)
    types = as_texts(var[FEATURE_TYPES])
    plain = types.str.lower().str.replace(r"[^a-z0-9]", "", regex=True)
    is_gene: NDArray[np.bool_] = plain.isin(OF_GENES | UNSAID).to_numpy(bool)
    if is_gene.all():
        return is_gene
    others = types[~is_gene].value_counts()
    named = ", ".join(f"'{kind}' ({n})" for kind, n in others.iloc[:MAX_NAMED].items())
    if not is_gene.any():
        raise InputError(
            f"no gene among {len(var)} features: their {FEATURE_TYPES} are {named}.",
            f"'{GENE_EXPRESSION}' as the type of genes, or none.",
            "Correct the column, or remove it if all features are genes.",
        )
    logger.warning("%d of %d features are no genes and are left out: %s", (~is_gene).sum(), len(var), named)
    return is_gene


def name_genes(var: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a row per row of `var`: unique symbols as index, and the column gene_ids.

    Ids are the first id column there is, else an index of Ensembl ids, else the symbols. A symbol that stands for
    several genes keeps its name at the first; the others become `<symbol>_<gene id>`. Raises InputError when a gene
    occurs twice, or has no name.
    """
    import pandas as pd

    symbols = _symbols(var)
    column = next((name for name in ID_COLUMNS if name in var), None)
    ids = symbols if column is None and not _is_ensembl(var.index) else _texts(var.index, symbols)
    if column is not None:
        ids = _texts(var[column], symbols)
    symbols = symbols.where(symbols != "", ids)
    if (symbols == "").any():
        raise InputError(
            f"{(symbols == '').sum()} of {len(var)} genes without a name in {source}.",
            "a name or an id for each.",
            "Name them or leave them out, and write the file again.",
        )
    again = symbols.duplicated()
    names = symbols.where(~again, symbols + "_" + ids)
    twice = names.duplicated() | (again & (symbols == ids))
    if twice.any():
        raise InputError(
            f"gene {symbols[twice].iloc[0]} twice in {source}.",
            "each gene once, or different ids in var['gene_ids'].",
            "Remove or add up the repeated genes, and write the file again.",
        )
    if again.any():
        logger.info("%d genes share a symbol with another: named <symbol>_<gene id>", again.sum())
    return pd.DataFrame({GENE_IDS: ids.to_numpy(str)}, index=pd.Index(names.to_numpy(str)))


def _symbols(var: pd.DataFrame) -> pd.Series:
    index = _texts(var.index, None)
    column = next((name for name in SYMBOL_COLUMNS if name in var), None)
    return index if column is None or not _is_ensembl(var.index) else _texts(var[column], index)


def _is_ensembl(index: pd.Index) -> bool:
    return bool(as_texts(index).str.fullmatch(ENSEMBL).mean() >= ENSEMBL_SHARE)


def _texts(values: pd.Index | pd.Series, otherwise: pd.Series | None) -> pd.Series:
    """Return the values as text, those missing or empty replaced by `otherwise`."""
    texts = as_texts(values)
    return texts if otherwise is None else texts.where(texts != "", otherwise)


INDEX_BLOCK = 10_000_000
"""How many indices are checked at once: those of Visium HD take gigabytes."""
H5_PARTS = ("barcodes", "data", "indices", "indptr", "shape", "features/id", "features/name")
H5_TYPES = "features/feature_type"
MTX = "matrix.mtx"
FEATURE_COLUMNS = (GENE_IDS, "symbol", FEATURE_TYPES)


def read_matrix(path: Path) -> AnnData:
    """Return the counts at `path`: X (spot, gene) CSR int32, barcodes and unique symbols as names.

    `path` is what `find_matrix` returns. `var["gene_ids"]` holds the Ensembl ids; features that are no genes are left
    out, see `is_expression`. A symbol that stands for several genes keeps its name at the first; the others become
    `<symbol>_<Ensembl id>`. Raises InputError when the matrix is damaged or holds anything but counts.
    """
    import pandas as pd
    from anndata import AnnData

    with reading(path, "a whole count matrix"):
        counts, barcodes, features = _read_mtx(path) if path.is_dir() or MTX in path.name else _read_h5(path)
        _require_shape(counts, barcodes, features)
        problem = _problem(counts)
    if problem is not None:
        raise InputError(
            f"{path} holds {problem}.",
            "raw UMI counts, whole numbers of 0 or more, each gene once per spot.",
            f"Use {SpaceRanger.MATRIX_H5} as Space Ranger wrote it.",
        )
    _require_once(barcodes, "barcode", path)
    if counts.dtype == np.float16:  # of which scipy does no more than hold it
        counts = counts.astype(np.float32)
    counts.eliminate_zeros()
    genes = is_expression(features)
    if not genes.all():
        counts, features = counts[:, np.flatnonzero(genes)], features[genes]
    _require_once(pd.Index(features[GENE_IDS]), "gene", path)
    if not counts.data.any():
        raise InputError(f"no gene expression in {path}.", "a count above 0.", "Fetch the matrix again.")
    return AnnData(
        counts.astype(np.int32, copy=False), obs=pd.DataFrame(index=barcodes), var=name_genes(features, str(path))
    )


def _read_h5(path: Path) -> tuple[csr_matrix, pd.Index, pd.DataFrame]:
    """Return counts (spot, gene), barcodes and features; scanpy's reader narrows counts to float32 unchecked."""
    import h5py
    import pandas as pd
    from scipy.sparse import csr_matrix

    if is_gzipped(path):
        raise still_packed(path, "a count matrix")
    refuse_foreign_content(path)
    with h5py.File(path) as file:
        missing = [part for part in H5_PARTS if not isinstance(file.get(f"matrix/{part}"), h5py.Dataset)]
        if missing:
            raise ValueError(f"it has no matrix/{missing[0]}")
        matrix = file["matrix"]
        _require_sound(matrix)
        compressed = tuple(matrix[name][:] for name in ("data", "indices", "indptr"))
        counts = csr_matrix(compressed, shape=tuple(int(n) for n in matrix["shape"][:][::-1]))
        kinds = [H5_TYPES] if isinstance(matrix.get(H5_TYPES), h5py.Dataset) else []
        columns = [matrix[name].asstr()[:] for name in ("features/id", "features/name", *kinds)]
        return counts, pd.Index(matrix["barcodes"].asstr()[:]), _features(pd.DataFrame(dict(enumerate(columns))))


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


def _read_mtx(path: Path) -> tuple[csr_matrix, pd.Index, pd.DataFrame]:
    """Return counts (spot, gene), barcodes and features of a folder, or of files that begin as `path` does."""
    import pandas as pd
    from scipy.io import mmread
    from scipy.sparse import csr_matrix, issparse

    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name[: path.name.index(MTX)])
    features = _read_names(folder, prefix, "features.tsv", "genes.tsv")
    if features.shape[1] == 1:
        raise InputError(f"a feature table of one column in {folder}.", "gene ids and symbols.", "Fetch it again.")
    barcodes = _read_names(folder, prefix, "barcodes.tsv")[0]
    matrix = _member(folder, prefix, MTX)
    if is_gzipped(matrix):
        with gzip.open(matrix) as file:
            entries = mmread(file)
    else:
        entries = mmread(matrix)
    counts = csr_matrix(entries.T)
    if issparse(entries) and counts.nnz < entries.nnz:  # what stands twice was added up
        raise ValueError(f"{matrix.name} names a gene twice in one spot")
    return counts, pd.Index(barcodes.to_numpy()), _features(features)


def _read_names(folder: Path, prefix: str, *names: str) -> pd.DataFrame:
    import io

    import pandas as pd

    content = unpacked(_member(folder, prefix, *names))
    # there are genes called NA and NAN
    return pd.read_csv(io.BytesIO(content), sep="\t", header=None, dtype=str, keep_default_na=False)


def _member(folder: Path, prefix: str, *names: str) -> Path:
    for name in names:
        for path in (folder / f"{prefix}{name}.gz", folder / f"{prefix}{name}"):
            if path.is_file():
                return path
    raise InputError(
        f"no {prefix}{names[0]} in {folder}, but {listing(folder, prefix)}.",
        "matrix.mtx, features.tsv and barcodes.tsv, gzipped or not.",
        "Fetch the whole folder.",
    )


def _features(table: pd.DataFrame) -> pd.DataFrame:
    """Return ids and, where the table has them, types of the features, indexed by symbol."""
    named = table.iloc[:, : len(FEATURE_COLUMNS)]
    return named.set_axis(FEATURE_COLUMNS[: named.shape[1]], axis=1).set_index("symbol").rename_axis(None)


def _require_shape(counts: csr_matrix, barcodes: pd.Index, features: pd.DataFrame) -> None:
    if counts.shape != (len(barcodes), len(features)):
        raise ValueError(
            f"counts of {counts.shape[0]} spots and {counts.shape[1]} genes, but {len(barcodes)} barcodes and "
            f"{len(features)} features"
        )


def _problem(counts: csr_matrix) -> str | None:
    """Say why these are no raw counts, None where they are; puts them in order."""
    if counts.dtype.kind not in "iuf":
        return f"values of type {counts.dtype}"
    n_stored = counts.nnz
    counts.sum_duplicates()
    return "a gene twice in one spot" if counts.nnz < n_stored else _problem_of(counts.data)


def _problem_of(values: NDArray[Any]) -> str | None:
    if not values.any():
        return "no gene expression"
    if not np.isfinite(values).all():
        return "missing or infinite values"
    if values.min() < 0:
        return "negative values"
    if values.dtype.kind == "f" and (values % 1).any():
        return "fractional values"
    return "values above 2^31" if values.max() > np.iinfo(np.int32).max else None


def _require_once(names: pd.Index, what: str, path: Path) -> None:
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise InputError(f"{what} {twice} twice in {path}.", "each once.", "Fetch the matrix again.")

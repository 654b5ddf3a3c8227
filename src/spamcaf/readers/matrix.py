"""Count matrices: Space Ranger's h5 and Matrix Market files, the check for raw counts, and the naming of genes."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from spamcaf.errors import InputError
from spamcaf.limits import COUNTS_RATIO, GIB, MAX_COLUMNS, opened, require_memory, require_table
from spamcaf.names import GENE_IDS, SpaceRanger
from spamcaf.readers import files
from spamcaf.readers.files import as_texts
from spamcaf.readers.hdf5 import refuse_hostile_hdf5, require_memory_for

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

ID_COLUMNS = (GENE_IDS, "gene_id", "ensembl_id", "feature_id")
SYMBOL_COLUMNS = ("gene_symbols", "gene_symbol", "gene_name", "gene_names", "feature_name", "symbol")
"""Looked at where the index holds Ensembl ids."""
ENSEMBL = r"ENS[A-Z]*G\d{6,}(\.\d+)?"
ENSEMBL_SHARE = 0.9  # spike-ins and transgenes have other ids
FEATURE_TYPES = "feature_types"
OF_GENES = frozenset({"geneexpression", "gene", "gex", "rna"})
UNSTATED = frozenset({"", "nan", "none", "na", "null"})
"""Both without case, spaces and other signs. Joining sections leaves genes of one of them without a type."""
FRACTIONS = "fractional values"
H5_PARTS = ("barcodes", "data", "indices", "indptr", "shape", "features/id", "features/name")
H5_TYPES = "features/feature_type"
MTX, BARCODES = "matrix.mtx", "barcodes.tsv"
MAX_NAMES_BYTES = GIB  # barcodes of 30 million bins of Visium HD take 700 MB
MAX_MTX_LINE, MAX_COMMENTS = 256, 10_000  # bytes of a line; lines before the entries
MIN_ENTRY_BYTES, MTX_BYTES = 2, 24  # of an entry: in the file (a digit and what follows it), and in memory
FEATURE_COLUMNS = (GENE_IDS, "symbol", FEATURE_TYPES)


def as_csr(values: Any, shape: tuple[int, int]) -> csr_matrix:  # noqa: ANN401  a matrix of any kind
    """Return a matrix (spot, gene) as CSR, sorted and without stored zeros.

    Raises ValueError where its parts contradict each other, where it has another shape, and for a gene twice in a spot.
    """
    if np.shape(values) != shape:  # before memory is taken for as many rows as it declares
        raise ValueError(f"{np.shape(values)} values for {shape[0]} spots and {shape[1]} genes")
    if hasattr(values, "check_format"):
        values.check_format(full_check=True)  # an index out of range would crash what follows
    counts = csr_matrix(values)
    if counts.dtype == np.float16:  # of which scipy does no more than hold it
        counts = counts.astype(np.float32)
    if counts.dtype.kind in "biuf":
        n_stored = values.nnz if issparse(values) else counts.nnz  # COO adds up at once what stands twice
        counts.sum_duplicates()
        if counts.nnz < n_stored:
            raise ValueError("a gene twice in one spot")
        counts.eliminate_zeros()
    return counts


def counts_problem(counts: csr_matrix) -> str | None:
    """Return what a matrix holds instead of raw counts; None where it holds them."""
    values = counts.data
    if values.dtype.kind not in "iuf":
        return f"values of type {values.dtype}"
    tests = {
        "no gene expression": lambda: not values.any(),
        "missing or infinite values": lambda: not np.isfinite(values).all(),
        "negative values": lambda: values.min() < 0,
        FRACTIONS: lambda: values.dtype.kind == "f" and (values % 1).any(),
        "values above 2^31": lambda: values.max() > np.iinfo(np.int32).max,
    }
    return next((problem for problem, is_so in tests.items() if is_so()), None)


def is_expression(var: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows of `var` are genes, by the column feature_types.

    A gene is what is called one, however it is spelled, and what has no type. Antibodies and other features are
    counted and named in a warning. Raises InputError where no gene is left.
    """
    if FEATURE_TYPES not in var:
        return np.ones(len(var), bool)
    types = as_texts(var[FEATURE_TYPES])
    plain = types.str.lower().str.replace(r"[^a-z0-9]", "", regex=True)
    is_gene: NDArray[np.bool_] = plain.isin(OF_GENES | UNSTATED).to_numpy(bool)
    others = files.named(f"'{kind}' ({n})" for kind, n in types[~is_gene].value_counts().items())
    if not is_gene.any():
        raise InputError(
            f"no gene among {len(var)} features: their {FEATURE_TYPES} are {others}.",
            "'Gene Expression' as the type of genes, or none.",
            "Correct the column, or remove it if all features are genes.",
        )
    if others:
        logger.warning("%d of %d features are no genes and are left out: %s", (~is_gene).sum(), len(var), others)
    return is_gene


def name_genes(var: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a row per row of `var`: unique symbols as index, and the column gene_ids.

    Ids are the first id column there is, else an index of Ensembl ids, else the symbols. A symbol that stands for
    several genes keeps its name at the first; the others become `<symbol>_<gene id>`. Raises InputError when a gene
    occurs twice, or has no name.
    """
    index = as_texts(var.index)
    is_ensembl = index.str.fullmatch(ENSEMBL).mean() >= ENSEMBL_SHARE
    symbols = _first_column(var, SYMBOL_COLUMNS, index) if is_ensembl else index
    ids = _first_column(var, ID_COLUMNS, symbols)
    if is_ensembl and not set(ID_COLUMNS) & set(var.columns):
        ids = index.where(index != "", symbols)
    symbols = symbols.where(symbols != "", ids)
    if (symbols == "").any():
        found = f"{(symbols == '').sum()} of {len(var)} genes without a name in {source}."
        raise InputError(found, "a name or an id for each.", "Name them or leave them out, and write the file again.")
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


def _first_column(var: pd.DataFrame, columns: tuple[str, ...], otherwise: pd.Series) -> pd.Series:
    """Return the first of `columns` that `var` has, as text; `otherwise` where there is none or a cell is empty."""
    texts = next((as_texts(var[name]) for name in columns if name in var), otherwise)
    return texts.where(texts != "", otherwise)


def read_matrix(path: Path) -> AnnData:
    """Return the counts at `path`: X (spot, gene) CSR int32, barcodes and unique symbols as names.

    `path` is what `find_matrix` returns. `var["gene_ids"]` holds the Ensembl ids, see `name_genes`; features that are
    no genes are left out. Raises InputError when the matrix is damaged or holds anything but counts.
    """
    from anndata import AnnData

    with files.reading(path, "a whole count matrix"):
        values, barcodes, features = _read_mtx(path) if path.is_dir() or MTX in path.name else _read_h5(path)
        counts = as_csr(values, (len(barcodes), len(features)))
    problem = counts_problem(counts)
    if problem is not None:
        raise InputError(
            f"{path} holds {problem}.",
            "raw UMI counts, whole numbers of 0 or more, each gene once per spot.",
            f"Use {SpaceRanger.MATRIX_H5} as Space Ranger wrote it.",
        )
    files.require_once(barcodes, "barcode", path)
    genes = is_expression(features)
    if not genes.all():
        counts, features = counts[:, np.flatnonzero(genes)], features[genes]
    files.require_once(pd.Index(features[GENE_IDS]), "gene", path)
    if not counts.nnz:
        raise InputError(f"no gene expression in {path}.", "a count above 0.", "Fetch the matrix again.")
    # a copy of the counts of Visium HD takes gigabytes
    counts = counts.astype(np.int32, copy=False)
    return AnnData(counts, obs=pd.DataFrame(index=barcodes), var=name_genes(features, str(path)))


def _read_h5(path: Path) -> tuple[csr_matrix, pd.Index, pd.DataFrame]:
    """Return counts (spot, gene), barcodes and features; scanpy's reader narrows counts to float32 unchecked."""
    if files.is_gzipped(path):
        raise files.still_packed(path, "a count matrix")
    refuse_hostile_hdf5(path)
    with h5py.File(path) as file:
        missing = [part for part in H5_PARTS if not isinstance(file.get(f"matrix/{part}"), h5py.Dataset)]
        if missing:
            raise ValueError(f"it has no matrix/{missing[0]}")
        matrix = file["matrix"]
        require_memory_for(path, matrix)
        compressed = tuple(matrix[name][:] for name in ("data", "indices", "indptr"))
        if compressed[2][-1] != len(compressed[1]):  # scipy would cut off the rest
            raise ValueError("its last spot does not end at its last value")
        counts = csr_matrix(compressed, shape=tuple(int(n) for n in matrix["shape"][:][::-1]))
        kinds = [H5_TYPES] if isinstance(matrix.get(H5_TYPES), h5py.Dataset) else []
        columns = [matrix[name].asstr()[:] for name in ("features/id", "features/name", *kinds)]
        return counts, pd.Index(matrix["barcodes"].asstr()[:]), _features(pd.DataFrame(dict(enumerate(columns))))


def _read_mtx(path: Path) -> tuple[Any, pd.Index, pd.DataFrame]:
    """Return counts (spot, gene), barcodes and features of a folder, or of files that begin as `path` does."""
    from scipy.io import mmread

    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name[: path.name.index(MTX)])
    features = _read_names(folder, prefix, "features.tsv", "genes.tsv")
    if features.shape[1] == 1:
        raise InputError(f"a feature table of one column in {folder}.", "gene ids and symbols.", "Fetch it again.")
    barcodes = _read_names(folder, prefix, BARCODES)[0]
    matrix = _member(folder, prefix, MTX)
    at_most = _require_entries(matrix, (len(features), len(barcodes)))
    with opened(matrix, at_most, COUNTS_RATIO) as file:
        entries = mmread(file)
    return entries.T, pd.Index(barcodes.to_numpy()), _features(features)


def _require_entries(path: Path, shape: tuple[int, int]) -> int:
    """Return how many bytes a Matrix Market file has at most, by its header.

    Raises ValueError where it states another shape than (gene, spot), or more entries than fit into it or the file.
    """
    with opened(path) as file:
        lines = file.read(MAX_MTX_LINE * MAX_COMMENTS).split(b"\n")
    is_dense = b"array" in lines[0].lower().split()
    sizes = next((line for line in lines[1:] if line.strip() and not line.startswith(b"%")), b"").split()
    stated = [int(text) for text in sizes if text.isdigit()]
    if len(stated) != len(sizes) or len(stated) != 3 - is_dense:
        raise ValueError("it does not state its size")
    if tuple(stated[:2]) != shape:
        raise ValueError(f"({stated[1]}, {stated[0]}) values for {shape[1]} spots and {shape[0]} genes")
    n_entries, n_bytes = shape[0] * shape[1] if is_dense else stated[2], path.stat().st_size
    n_text = n_bytes * (COUNTS_RATIO if files.is_gzipped(path) else 1)
    if n_entries > min(n_text // MIN_ENTRY_BYTES + 1, shape[0] * shape[1]):
        raise ValueError(f"it states {n_entries} entries in {n_bytes} bytes")
    require_memory(n_entries * MTX_BYTES, path)
    return MAX_MTX_LINE * (n_entries + MAX_COMMENTS)


def _read_names(folder: Path, prefix: str, *names: str) -> pd.DataFrame:
    path = _member(folder, prefix, *names)
    content = files.unpacked(path, MAX_NAMES_BYTES)
    if names[0] != BARCODES:
        require_table(io.BytesIO(content), "\t", MAX_COLUMNS, path)
    # there are genes called NA and NAN
    return pd.read_csv(io.BytesIO(content), sep="\t", header=None, dtype=str, keep_default_na=False)


def _member(folder: Path, prefix: str, *names: str) -> Path:
    for path in (folder / f"{prefix}{name}{suffix}" for name in names for suffix in (".gz", "")):
        if path.is_file():
            return path
    found = f"no {prefix}{names[0]} in {folder}, but {files.listing(folder, prefix)}."
    raise InputError(found, "matrix.mtx, features.tsv and barcodes.tsv, gzipped or not.", "Fetch the whole folder.")


def _features(table: pd.DataFrame) -> pd.DataFrame:
    """Return ids and, where the table has them, types of the features, indexed by symbol."""
    table = table.iloc[:, : len(FEATURE_COLUMNS)]
    return table.set_axis(FEATURE_COLUMNS[: table.shape[1]], axis=1).set_index("symbol").rename_axis(None)

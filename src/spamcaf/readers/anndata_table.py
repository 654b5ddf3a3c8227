"""The parts of an AnnData that a section is made of, read without the rest; raw counts found or recovered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError, first_line, is_fault_of_ours
from spamcaf.names import PROVENANCE, SPATIAL
from spamcaf.readers.anndata_library import COORDINATE_KEYS, THUMBNAILS
from spamcaf.readers.files import as_texts
from spamcaf.readers.matrix import is_expression, name_genes

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

logger = logging.getLogger(__name__)

WHOLE = 1e-3
"""How far a recovered count may be from a whole number, beside the rounding of a float32."""
FLOAT32_ROUNDING = 1e-6
MAX_RECOVERED = 100_000
"""Above this a float32 no longer tells neighbouring counts apart."""
MIN_REPEATS, MIN_REPEATED_SHARE = 2, 0.05
"""How often, and in which share of a spot's non-zero values, the smallest must occur to be taken for a count of 1."""
MIN_PLAUSIBLE_SPOTS = 0.95
FRACTIONS = "fractions"
MAX_TOTAL_DIFFERENCE, MIN_EQUAL_SPOTS, FEWEST_SPOTS = 0.01, 0.95, 10
"""How near to their median the totals of how many spots, of at least so many, must be to look normalised."""
SELECTED = "highly_variable"
"""`var` column of scanpy: true for all genes where the others were left out."""


@dataclass(frozen=True)
class Matrix:
    """A matrix that may hold counts, read when asked for: (spot, gene), with a row of `var` per gene."""

    where: str
    load: Callable[[], Any]
    var: pd.DataFrame


@dataclass(frozen=True)
class Counts:
    """Raw counts (spot, gene), CSR int32; their genes; and a text that says where they come from."""

    values: csr_matrix
    var: pd.DataFrame
    origin: str


def choose_counts(matrices: Sequence[Matrix], n_spots: int, log_base: float | None, source: str) -> Counts:
    """Return the first of `matrices` that holds raw counts; else those recovered from a log-normalised one.

    Where another one holds the same counts and those of more genes, it is taken: the depth of a spot is the sum of all
    its counts. `log_base` is the base of the logarithm, None for the natural one. Raises InputError naming what each
    matrix holds.
    """
    found: dict[str, str] = {}
    for matrix in matrices:
        counts, problem = _counts_in(matrix, n_spots, source)
        if counts is not None:
            return _of_all_genes(counts, matrices, n_spots, log_base, source)
        found[matrix.where] = problem
    for matrix in sorted(matrices, key=lambda matrix: -len(matrix.var)):
        if found[matrix.where] != FRACTIONS:
            continue
        recovered = _recovered_from(matrix, n_spots, log_base, source)
        if recovered is not None:
            logger.warning("No raw counts in %s: %s. They come out whole.", source, recovered.origin)
            return recovered
        found[matrix.where] = f"{FRACTIONS} from which counts cannot be recovered for certain"
    held = "; ".join(f"{where} holds {what}" for where, what in found.items())
    raise InputError(
        f"no raw counts in {source}: {held or 'no matrix'}.",
        "raw counts in X or layers['counts'], whole numbers of 0 or more.",
        "Write the file again with the matrix as it was before normalisation in layers['counts'].",
    )


def _counts_in(matrix: Matrix, n_spots: int, source: str) -> tuple[Counts | None, str]:
    """Return the raw counts that a matrix holds, or None and what it holds instead."""
    values = _load_rows(matrix, n_spots, source)
    problem = _problem(values)
    return (Counts(values.astype(np.int32), matrix.var, matrix.where), "") if problem is None else (None, problem)


def _recovered_from(matrix: Matrix, n_spots: int, log_base: float | None, source: str) -> Counts | None:
    recovered = recover_counts(_load_rows(matrix, n_spots, source), log_base)
    return (
        None if recovered is None else Counts(recovered, matrix.var, f"recovered from {matrix.where}, log1p-normalised")
    )


def _of_all_genes(
    chosen: Counts, matrices: Sequence[Matrix], n_spots: int, log_base: float | None, source: str
) -> Counts:
    """Return counts that hold those of `chosen` among others; `chosen` where there are none, with a warning."""
    larger = [matrix for matrix in matrices if len(matrix.var) > len(chosen.var)]
    for matrix in larger:
        columns = _columns_of(chosen.var, matrix.var)
        if columns is None:
            continue
        full, problem = _counts_in(matrix, n_spots, source)
        if problem == FRACTIONS:
            full = _recovered_from(matrix, n_spots, log_base, source)
        if full is not None and (full.values[:, columns] != chosen.values).nnz == 0:
            origin = (
                f"{full.origin}, the full matrix of {len(full.var)} genes; {chosen.origin} holds {len(columns)} of them"
            )
            logger.log(logging.WARNING if problem else logging.INFO, "counts of %s: %s", source, origin)
            return Counts(full.values, full.var, origin)
    is_selection = SELECTED in chosen.var and (as_texts(chosen.var[SELECTED]).str.lower() == "true").all()
    if larger or is_selection:
        more = ", ".join(f"{matrix.where} with {len(matrix.var)} genes holds no such counts" for matrix in larger)
        logger.warning(
            "%s of %s has counts of %d chosen genes only%s: the depth of a spot is the sum of these alone",
            chosen.origin, source, len(chosen.var), f" ({more})" if more else "",
        )  # fmt: skip
    return chosen


def _columns_of(some: pd.DataFrame, more: pd.DataFrame) -> NDArray[np.intp] | None:
    """Return where the genes `some` are among `more`; None where one is not, or is not alone in its name."""
    import pandas as pd

    names = pd.Index(as_texts(more.index))
    columns = names.get_indexer(as_texts(some.index)) if names.is_unique else np.array([-1])
    return None if (columns < 0).any() else columns


def warn_of_other_values(counts: Counts, source: str) -> None:
    """Log a warning where whole numbers look like something else than counts: binarised, or normalised and rounded."""
    totals = np.asarray(counts.values.sum(axis=1)).ravel()
    totals = totals[totals > 0]
    is_equal = np.abs(totals / np.median(totals) - 1) <= MAX_TOTAL_DIFFERENCE
    if counts.values.max() == 1:
        logger.warning("%s of %s holds no number above 1: it looks binarised, not counted", counts.origin, source)
    elif len(totals) >= FEWEST_SPOTS and is_equal.mean() >= MIN_EQUAL_SPOTS:
        logger.warning(
            "%s of %s has about %.0f as the total of nearly every spot: it looks normalised and rounded, not counted",
            counts.origin, source, np.median(totals),
        )  # fmt: skip


def recover_counts(values: csr_matrix, log_base: float | None = None) -> csr_matrix | None:
    """Return the counts of which `values` (spot, gene) is log(1 + counts x a factor per spot), or None.

    A spot's smallest value is taken for a count of 1, and all others must then be whole. None is returned where they
    are not, or where the smallest value is too rare to be a count of 1 in more than a twentieth of the spots.
    """
    from scipy.sparse import csr_matrix

    n = np.diff(values.indptr)
    starts, n_filled = values.indptr[:-1][n > 0], n[n > 0]
    with np.errstate(over="ignore"):
        linear = np.expm1(values.data.astype(np.float64) * np.log(log_base or np.e))
    ratio = linear / np.repeat(np.minimum.reduceat(linear, starts), n_filled)
    counts = np.rint(ratio)
    if not counts.max() < MAX_RECOVERED or (np.abs(ratio - counts) > WHOLE + FLOAT32_ROUNDING * counts).any():
        return None
    n_ones = np.add.reduceat((counts == 1).astype(np.int64), starts)
    plausible = (n_ones >= MIN_REPEATS) & (n_ones >= MIN_REPEATED_SHARE * n_filled)
    if plausible.mean() < MIN_PLAUSIBLE_SPOTS:
        return None
    return csr_matrix((counts.astype(np.int32), values.indices, values.indptr), shape=values.shape)


def _load_rows(matrix: Matrix, n_spots: int, source: str) -> csr_matrix:
    """Return the matrix as CSR without stored zeros; raise InputError where its indices or shape are wrong."""
    from scipy.sparse import csr_matrix

    values = matrix.load()
    try:
        if hasattr(values, "check_format"):
            values.check_format(full_check=True)  # an index out of range would crash what follows
        values = csr_matrix(values)
        if values.shape != (n_spots, len(matrix.var)):
            raise ValueError(f"{values.shape} values for {n_spots} spots and {len(matrix.var)} genes")
        n_stored = values.nnz
        values.sum_duplicates()
        if values.nnz < n_stored:
            raise ValueError("a gene twice in one spot")
        values.eliminate_zeros()
    except (ValueError, TypeError) as error:
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"{matrix.where} of {source} is damaged ({error}).", "a row per spot, a column per gene.", "Write it again."
        ) from error
    return values


def _problem(values: csr_matrix) -> str | None:
    """Say why these are no raw counts; None where they are."""
    if values.dtype.kind not in "iuf":
        return f"values of type {values.dtype}"
    data = values.data
    if data.size == 0:
        return "zeros only"
    if not np.isfinite(data).all():
        return "missing or infinite values"
    if (data < 0).any():
        return "negative values"
    if (data % 1).any():
        return FRACTIONS
    return "values above 2^31" if data.max() > np.iinfo(np.int32).max else None


COUNTS_LAYER = "counts"
LOG1P = "log1p"
DENSE_BLOCK = 2**24
"""Values of a dense matrix held at once."""


@dataclass(frozen=True)
class Table:
    """Spots and genes of an AnnData, with the matrices that may hold raw counts in the order of trust."""

    obs: pd.DataFrame
    var: pd.DataFrame
    obsm: Mapping[str, Any]
    uns: Mapping[str, Any]
    matrices: tuple[Matrix, ...]

    def counts(self, source: str) -> Counts:
        """Return raw counts of genes that are named, see `choose_counts`, `name_genes`; raise InputError without."""
        log = self.uns.get(LOG1P, {})
        base = log.get("base") if isinstance(log, Mapping) else None
        found = choose_counts(self.matrices, len(self.obs), float(base) if isinstance(base, Real) else None, source)
        warn_of_other_values(found, source)
        genes = is_expression(found.var)
        values = found.values if genes.all() else found.values[:, np.flatnonzero(genes)]
        return Counts(values, name_genes(found.var[genes], source), found.origin)


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a reader raises at a damaged or hostile file into InputError; a fault of ours stays what it is."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # there is no end to the types that readers raise at broken content
        if is_fault_of_ours(error):
            raise
        text = first_line(error).rstrip(".")
        raise InputError(
            f"{path} cannot be read ({text}).", f"{expected}.", "Fetch or write the file again."
        ) from error


def table_of(data: AnnData) -> Table:
    """Return the parts of an AnnData in memory."""
    matrices = []
    if COUNTS_LAYER in data.layers:
        matrices.append(Matrix(f"layers['{COUNTS_LAYER}']", lambda: data.layers[COUNTS_LAYER], data.var))
    if data.X is not None:
        matrices.append(Matrix("X", lambda: data.X, data.var))
    if data.raw is not None:
        matrices.append(Matrix("raw.X", lambda: data.raw.X, data.raw.var))
    return Table(data.obs, data.var, data.obsm, data.uns, tuple(matrices))


def read_h5ad_table(path: Path) -> Table:
    """Return the parts of an h5ad file; matrices stay on disk until they are asked for."""
    import anndata
    import h5py

    with h5py.File(path) as file:
        if isinstance(file["obs"], h5py.Dataset) or "raw.X" in file:  # written before anndata 0.7
            return table_of(anndata.read_h5ad(path))
        obs, var = _read_frame(file, "obs"), _read_frame(file, "var")
        obsm = {key: _read(file, f"obsm/{key}") for key in COORDINATE_KEYS if f"obsm/{key}" in file}
        if any(len(places) != len(obs) for places in obsm.values()):
            raise ValueError(f"coordinates of other than its {len(obs)} spots")
        raw_var = _read_frame(file, "raw/var") if "raw/X" in file and "raw/var" in file else None
        where = [("layers['counts']", f"layers/{COUNTS_LAYER}", var), ("X", "X", var), ("raw.X", "raw/X", raw_var)]
        matrices = [
            Matrix(name, partial(_load_matrix, path, key), genes)
            for name, key, genes in where
            if genes is not None and key in file
        ]
        return Table(obs, var, obsm, _read_uns(file), tuple(matrices))


def _read_frame(file: h5py.File, key: str) -> pd.DataFrame:
    import pandas as pd

    frame = _read(file, key)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{key} is no table")
    return frame


def _read(file: h5py.File, key: str) -> Any:  # noqa: ANN401  an element of any kind
    from anndata.io import read_elem

    return read_elem(file[key])


def _read_uns(file: h5py.File) -> dict[str, Any]:
    """Return what is used of `uns`: a picture of full resolution may lie there, too, and is left on disk."""
    import h5py

    uns: dict[str, Any] = {key: _read(file, f"uns/{key}") for key in (LOG1P, PROVENANCE) if f"uns/{key}" in file}
    libraries = file.get(f"uns/{SPATIAL}")
    if not isinstance(libraries, h5py.Group):
        return uns
    uns[SPATIAL] = {}
    for name, library in libraries.items():
        if isinstance(library, h5py.Group):
            keys = ["metadata", "scalefactors"]
            record = {key: _read(library, key) for key in keys if key in library}
            record["images"] = {
                key: _read(library, f"images/{key}") for key in THUMBNAILS if f"images/{key}" in library
            }
            uns[SPATIAL][name] = record
    return uns


def _load_matrix(path: Path, key: str) -> Any:  # noqa: ANN401  a matrix of any kind
    import h5py
    from scipy.sparse import issparse

    with readable(path, "a whole count matrix"), h5py.File(path) as file:
        element = file[key]
        values = _sparse(element) if isinstance(element, h5py.Dataset) else _read(file, key)
        if not issparse(values):
            raise ValueError(f"{key} is no matrix")
        return values


def _sparse(dense: h5py.Dataset) -> csr_matrix:
    """Return a dense matrix as CSR, a block of rows at a time."""
    from scipy.sparse import csr_matrix, vstack

    if len(dense.shape) != 2:  # noqa: PLR2004  spots and genes
        raise ValueError(f"a matrix of {len(dense.shape)} dimensions")
    step = max(DENSE_BLOCK // max(dense.shape[1], 1), 1)
    blocks = [csr_matrix(dense[top : top + step]) for top in range(0, dense.shape[0], step)]
    return vstack(blocks, format="csr") if blocks else csr_matrix(dense.shape, dtype=dense.dtype)

"""Raw counts among the matrices of an AnnData: taken where they are, or recovered from a log-normalised matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.layouts.texts import as_texts
from spamcaf.errors import InputError, is_fault_of_ours

if TYPE_CHECKING:
    import pandas as pd
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
    values = _load(matrix, n_spots, source)
    problem = _problem(values)
    return (Counts(values.astype(np.int32), matrix.var, matrix.where), "") if problem is None else (None, problem)


def _recovered_from(matrix: Matrix, n_spots: int, log_base: float | None, source: str) -> Counts | None:
    recovered = recover_counts(_load(matrix, n_spots, source), log_base)
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


def _load(matrix: Matrix, n_spots: int, source: str) -> csr_matrix:
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

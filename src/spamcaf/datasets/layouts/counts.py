"""Raw counts among the matrices of an AnnData: taken where they are, or recovered from a log-normalised matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
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

    `log_base` is the base of the logarithm, None for the natural one. Raises InputError naming what each matrix holds.
    """
    found: dict[str, str] = {}
    for matrix in matrices:
        values = _load(matrix, n_spots, source)
        problem = _problem(values)
        if problem is None:
            return Counts(values.astype(np.int32), matrix.var, matrix.where)
        found[matrix.where] = problem
    for matrix in matrices:
        if found[matrix.where] != FRACTIONS:
            continue
        recovered = recover_counts(_load(matrix, n_spots, source), log_base)
        if recovered is not None:
            origin = f"recovered from {matrix.where}, log1p-normalised"
            logger.warning("No raw counts in %s: %s. They come out whole.", source, origin)
            return Counts(recovered, matrix.var, origin)
        found[matrix.where] = f"{FRACTIONS} from which counts cannot be recovered for certain"
    held = "; ".join(f"{where} holds {what}" for where, what in found.items())
    raise InputError(
        f"no raw counts in {source}: {held or 'no matrix'}.",
        "raw counts in X or layers['counts'], whole numbers of 0 or more.",
        "Write the file again with the matrix as it was before normalisation in layers['counts'].",
    )


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

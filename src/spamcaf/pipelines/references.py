"""Reference counts for gene programs: joined by gene, sampled, and never with spots of the section itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.pipelines.joins import all_gene_ids
from spamcaf.sections.gene_names import match_genes
from spamcaf.sections.panel import COUNTS, log_cp10k
from spamcaf.sections.sites import CHUNK

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from spamcaf.datasets.inputs import References
    from spamcaf.model.data import ReferenceCounts

logger = logging.getLogger(__name__)

MAX_REFERENCE_ROWS = 20_000
"""Spots or cells taken of one reference at most, at random: more do not change a covariance of 1500 genes."""
LEAST_SHARED_GENES = 0.1
LEAST_SAME_COUNTS = 20
"""A row of a reference with as many counts of the panel that all equal a spot's is that spot."""


def reference_counts(references: References, expression: AnnData, seed: int) -> list[ReferenceCounts]:
    """Return the references with the genes of `expression`, 0 where one lacks a gene; never with its own spots.

    Raises InputError where hardly a gene is shared.
    """
    return [join_reference(name, counts, expression, seed) for name, counts in references.load()]


def join_reference(name: str, counts: AnnData, expression: AnnData, seed: int) -> ReferenceCounts:
    """Return one reference, of raw `counts` (spot or cell, gene), see `reference_counts`."""
    from spamcaf.model.data import ReferenceCounts

    ids = all_gene_ids(expression)
    column = match_genes(counts.var, ids, expression.var_names.tolist())
    is_there = column >= 0
    if is_there[: expression.n_vars].mean() < LEAST_SHARED_GENES:
        raise InputError(
            f"{is_there.sum()} of {len(ids)} genes of this section in the reference '{name}': {counts.var_names[0]} is "
            f"its first, {ids[0]} the first here.",
            "counts of the same species, with gene ids or symbols of the same kind.",
            "Leave it out of reference, or convert its gene names.",
        )
    depth = np.asarray(counts.X.sum(axis=1)).ravel().astype(np.float64)
    own = is_same_spot(counts.X[:, column[is_there]], expression, np.flatnonzero(is_there[: expression.n_vars]))
    if own.any():
        logger.warning("reference %s: %d spots of this very section are left out", name, own.sum())
    rows = np.flatnonzero((depth > 0) & ~own)
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MAX_REFERENCE_ROWS])
    values = np.zeros((len(rows), len(ids)), np.float32)
    values[:, is_there] = log_cp10k(counts.X[rows][:, column[is_there]], depth[rows])
    logger.info("reference %s: %d spots or cells, %d of %d genes", name, len(rows), is_there.sum(), len(ids))
    return ReferenceCounts(name, values, depth[rows])


def is_same_spot(counts: csr_matrix, expression: AnnData, genes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which rows of `counts` (row, gene) are spots of `expression`: equal in all counts of the panel's `genes`.

    `counts` holds these genes first. Rows of hardly a count are not told apart and are none.
    """
    ours = expression.layers[COUNTS][:, genes]
    known = {row.tobytes() for row in np.asarray(ours.toarray(), np.int64)}
    n_genes, same = len(genes), np.zeros(counts.shape[0], bool)
    for start in range(0, counts.shape[0], CHUNK):
        block = np.asarray(counts[start : start + CHUNK, :n_genes].toarray(), np.int64)
        same[start : start + CHUNK] = [
            row.sum() >= LEAST_SAME_COUNTS and np.ascontiguousarray(row).tobytes() in known for row in block
        ]
    return same

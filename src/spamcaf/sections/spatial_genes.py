"""Spatially variable genes: ranked by Moran's I over neighbouring spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import FACTS, SPATIAL, Fact
from spamcaf.sections.expression import TARGET_SUM

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

REACH_PITCHES = 1.2
"""Neighbours on the lattice are one pitch apart, the next ones at least 1.4."""
CHUNK = 512
"""Genes at a time: 20 MB of dense values for 5000 spots."""


def most_spatial(training: AnnData, candidates: NDArray[np.bool_], n_genes: int) -> list[str]:
    """Return the names of the `n_genes` genes with the highest Moran's I, the highest first; of all where it is more.

    `training` (spot, gene) holds raw counts of all genes, `candidates` tells which may be chosen. Moran's I is that of
    log1p of counts per 10 000 over the spots of `training` that are lattice neighbours. Raises InputError where none
    are.
    """
    score = _morans_i(training, np.flatnonzero(candidates), _neighbour_graph(training))
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:n_genes]
    return [str(gene) for gene in training.var_names[candidates][order]]


def _neighbour_graph(training: AnnData) -> csr_matrix:
    from scipy.sparse import csr_matrix
    from scipy.spatial import cKDTree

    facts = training.uns[FACTS]
    reach_px = REACH_PITCHES * float(facts[Fact.PITCH_UM]) / float(facts[Fact.MPP])
    pairs = cKDTree(np.asarray(training.obsm[SPATIAL])).query_pairs(reach_px, output_type="ndarray")
    if len(pairs) == 0:
        raise InputError(
            f"no two of {training.n_obs} training spots are neighbours.",
            "neighbours, for panel.method=moran.",
            "Hide fewer spots (split.hidden_share), or use panel.method=seurat_v3.",
        )
    row, column = np.concatenate([pairs, pairs[:, ::-1]]).T
    return csr_matrix((np.ones(len(row)), (row, column)), shape=(training.n_obs, training.n_obs))


def _morans_i(training: AnnData, genes: NDArray[np.int64], graph: csr_matrix) -> NDArray[np.float64]:
    import scanpy as sc

    counts = training.X.tocsc()
    depth = np.asarray(counts.sum(axis=1)).ravel().astype(np.float64)
    per_spot = TARGET_SUM / np.maximum(depth, 1)
    score = np.empty(len(genes))
    for start in range(0, len(genes), CHUNK):
        values = np.log1p(counts[:, genes[start : start + CHUNK]].toarray().T * per_spot)
        score[start : start + CHUNK] = sc.metrics.morans_i(graph, values)
    return score

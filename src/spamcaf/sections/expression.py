"""Normalised expression of the gene panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.names import GENE_IDS, SPATIAL

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TARGET_SUM = 10_000
DEPTH = "depth"
COUNTS = "counts"


def normalise_expression(section: AnnData, panel: pd.DataFrame) -> AnnData:
    """Return log1p of counts per 10 000 for the panel, spots in the section's order.

    X is (spot, gene) float32 dense; `layers["counts"]` keeps the raw counts; `obs["depth"]` is the total UMI count
    over all genes, which the counts are divided by.
    """
    genes = panel["gene"].tolist()
    counts = section[:, genes].X
    depth = np.asarray(section.X.sum(axis=1)).ravel().astype(np.float64)
    expression = section[:, genes].copy()
    expression.X = np.log1p(counts.toarray() / depth[:, None] * TARGET_SUM).astype(np.float32)
    expression.layers[COUNTS] = counts
    expression.obs = section.obs.assign(**{DEPTH: depth})
    expression.var = section.var.loc[genes, [GENE_IDS]]
    expression.obsm = {SPATIAL: section.obsm[SPATIAL]}
    return expression

"""Gene sets of the panel, chosen on visible spots or by the user, and the scores of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spamcaf.names import GENE_SETS
from spamcaf.scoring import metrics
from spamcaf.scoring.metrics import Array


def choose_gene_sets(visible: Array, xy_um: Array, lattice: str, genes: Sequence[str]) -> dict[str, list[str]]:
    """Choose gene sets on visible spots alone, so that the hidden values that are scored have no part in the choice.

    Parameters
    ----------
    visible : (spot, gene)
        log1p of counts per 10 000 of the visible spots.
    xy_um : (spot, 2)
        Their coordinates, in micrometres.
    lattice : "hexagonal" or "square"
    genes : sequence of str

    Returns
    -------
    dict of list of str
        The genes of largest variance (variable_50, variable_200), of largest mean (expressed_50) and of largest Moran's
        I (spatial_50), the first first. A set that would be the whole panel is left out, and so are all of them where
        there are too few visible spots to have neighbours.
    """
    n_neighbours = metrics.NEIGHBOURS[lattice]
    if len(visible) <= n_neighbours:
        return {}
    values = {
        "variable": visible.var(axis=0, dtype=np.float64),
        "expressed": visible.mean(axis=0, dtype=np.float64),
        "spatial": np.nan_to_num(metrics.morans_i(visible, xy_um, n_neighbours), nan=-np.inf),
    }
    order = {name: np.argsort(-value, kind="stable") for name, value in values.items()}
    return {
        name: [genes[i] for i in order[name.split("_")[0]][:n_genes]]
        for name, n_genes in GENE_SETS.items()
        if n_genes < len(genes)
    }


def score_gene_sets(gene_scores: pd.DataFrame, gene_sets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Summarise the scores of each gene set: `gene_sets` of `scores.json`.

    Parameters
    ----------
    gene_scores : DataFrame
        A row per model and gene, as `build_scores` returns it.
    gene_sets : dict of sequence of str
        Genes of the panel, by the name of their set.

    Returns
    -------
    dict
        By set: n_genes, genes, and models with the means of `metrics.summarise`.
    """
    return {
        name: {
            "n_genes": len(genes),
            "genes": list(genes),
            "models": {
                str(model): metrics.summarise(rows[rows["gene"].isin(genes)])
                for model, rows in gene_scores.groupby("model", sort=False)
            },
        }
        for name, genes in gene_sets.items()
    }

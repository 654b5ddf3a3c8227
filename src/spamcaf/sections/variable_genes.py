"""Highly variable genes, after the checks without which seurat_v3 ends the process."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FEWEST_GENES = 4
"""With fewer varying genes the loess of seurat_v3 crashes the process (segmentation fault), not just the call."""
SPANS = (0.3, 0.6, 1.0)
"""Shares of the genes in one local fit of variance on mean. The first is scanpy's; a fit on few genes, or on many with
the same mean, needs a wider one."""
LEAST_VARIATION = 1e-9
"""Smallest squared coefficient of variation; below it scanpy's own variance may round to 0, and the gene be lost."""


def is_varying(counts: AnnData) -> NDArray[np.bool_]:
    """Tell which genes vary over the spots of `counts`, beyond what rounding could hide."""
    values = counts.X.tocsc().astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    variance = np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2
    varying: NDArray[np.bool_] = variance > LEAST_VARIATION * mean**2
    return varying


def most_variable(candidates: AnnData, n_genes: int) -> list[str]:
    """Return the names of the `n_genes` genes that vary most for their mean (seurat_v3), the most variable first.

    `candidates` (spot, gene) holds raw counts of varying genes. Raises InputError where there are too few genes, or
    too many of one mean, to tell variability from the mean.
    """
    if candidates.n_vars < FEWEST_GENES:
        raise _no_trend(candidates.n_vars)
    for span in SPANS:
        scored = _seurat_v3(candidates, n_genes, span)
        if scored is not None:
            if span != SPANS[0]:
                logger.info("few genes, or many of one mean: variance fitted on mean with a span of %.1f", span)
            return _in_order(scored, candidates, n_genes)
    raise _no_trend(candidates.n_vars)


def _seurat_v3(candidates: AnnData, n_genes: int, span: float) -> pd.DataFrame | None:
    import scanpy as sc

    try:
        scored = sc.pp.highly_variable_genes(
            candidates, flavor="seurat_v3", n_top_genes=n_genes, span=span, inplace=False
        )
    except ValueError as error:  # loess reports its singular fits so
        logger.debug("seurat_v3 with a span of %.1f: %s", span, error)
        return None
    return scored if np.isfinite(scored["variances_norm"]).all() else None


def _in_order(scored: pd.DataFrame, candidates: AnnData, n_genes: int) -> list[str]:
    scored.index = candidates.var_names
    chosen = scored[scored["highly_variable"]].sort_values("highly_variable_rank")
    if len(chosen) != n_genes:
        raise RuntimeError(f"Expected {n_genes} highly variable genes, scanpy returned {len(chosen)}.")
    return [str(gene) for gene in chosen.index]


def _no_trend(n_genes: int) -> InputError:
    return InputError(
        f"{n_genes} genes to choose from, too few or too many of one mean to fit their variance on their mean.",
        "more genes, of different means.",
        "Name the genes (panel.genes), or rank them by spatial pattern: --params panel.method=moran.",
    )

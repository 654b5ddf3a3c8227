"""The gene panel: which genes are predicted, chosen on training spots only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import PanelSettings

logger = logging.getLogger(__name__)

GENE = "gene"


def choose_gene_panel(training: AnnData, settings: PanelSettings) -> pd.DataFrame:
    """Choose highly variable genes (seurat_v3) of the training spots' raw counts, and the genes asked for by name.

    Returns a table of `n_genes` rows with gene, gene_ids, mean, variance and chosen_by (variability | request), most
    variable first; genes asked for take the place of the least variable. Genes expressed in fewer than `min_spots`
    training spots, or constant there, are not candidates: seurat_v3's loess ends the process on them. Raises InputError
    when fewer candidates than asked for are left.
    """
    candidates = training[:, _usable(training, settings.min_spots)].copy()
    if candidates.n_vars < settings.n_genes:
        raise InputError(
            f"{candidates.n_vars} of {training.n_vars} genes are expressed in at least {settings.min_spots} training "
            f"spots and vary.",
            f"{settings.n_genes} (panel.n_genes).",
            f"Lower it: --params panel.n_genes={candidates.n_vars}.",
        )
    asked = _known(candidates, settings.include)[: settings.n_genes]
    variable = _by_variability(candidates, settings.n_genes)
    room = settings.n_genes - len(asked)
    by_variability = [gene for gene in variable.index if gene not in asked][:room]
    return _table(candidates, by_variability, asked)


def _known(candidates: AnnData, genes: list[str]) -> list[str]:
    unknown = [gene for gene in genes if gene not in candidates.var_names]
    if unknown:
        logger.warning("asked for but absent, or in too few training spots to learn from: %s", ", ".join(unknown))
    return list(dict.fromkeys(gene for gene in genes if gene in candidates.var_names))


def _by_variability(candidates: AnnData, n_genes: int) -> pd.DataFrame:
    import scanpy as sc

    scored = sc.pp.highly_variable_genes(candidates, flavor="seurat_v3", n_top_genes=n_genes, inplace=False)
    scored.index = candidates.var_names
    chosen = scored[scored["highly_variable"]].sort_values("highly_variable_rank")
    if len(chosen) != n_genes:
        raise RuntimeError(f"Expected {n_genes} highly variable genes, scanpy returned {len(chosen)}.")
    return chosen


def _table(candidates: AnnData, by_variability: list[str], asked: list[str]) -> pd.DataFrame:
    import pandas as pd

    genes = [*by_variability, *asked]
    counts = candidates[:, genes].X.astype(np.float64)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    return pd.DataFrame(
        {
            GENE: genes,
            GENE_IDS: candidates.var.loc[genes, GENE_IDS].to_numpy(),
            "mean": mean,
            "variance": np.asarray(counts.multiply(counts).mean(axis=0)).ravel() - mean**2,
            "chosen_by": ["variability"] * len(by_variability) + ["request"] * len(asked),
        }
    )


def _usable(training: AnnData, min_spots: int) -> NDArray[np.bool_]:
    counts = training.X.tocsc().astype(np.float64)
    n_expressing = np.asarray((counts > 0).sum(axis=0)).ravel()
    total = np.asarray(counts.sum(axis=0)).ravel()
    squares = np.asarray(counts.multiply(counts).sum(axis=0)).ravel()
    usable: NDArray[np.bool_] = (n_expressing >= min_spots) & (squares * training.n_obs > total**2)
    return usable

"""The gene panel: which genes are predicted, chosen on training spots only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import PanelSettings

GENE = "gene"


def choose_gene_panel(training: AnnData, settings: PanelSettings) -> pd.DataFrame:
    """Choose highly variable genes (seurat_v3) of the training spots' raw counts.

    Returns a table with gene, gene_ids, mean, variance and rank, most variable first. Genes expressed in fewer than
    `min_spots` training spots, or constant there, are not candidates: seurat_v3's loess ends the process on them.
    Raises InputError when fewer candidates than asked for are left.
    """
    import pandas as pd
    import scanpy as sc

    candidates = training[:, _usable(training, settings.min_spots)].copy()
    if candidates.n_vars < settings.n_genes:
        raise InputError(
            f"{candidates.n_vars} of {training.n_vars} genes are expressed in at least {settings.min_spots} training "
            f"spots and vary.",
            f"{settings.n_genes} (panel.n_genes).",
            f"Lower it: --params panel.n_genes={candidates.n_vars}.",
        )
    chosen = sc.pp.highly_variable_genes(candidates, flavor="seurat_v3", n_top_genes=settings.n_genes, inplace=False)
    chosen.index = candidates.var_names
    chosen = chosen[chosen["highly_variable"]].sort_values("highly_variable_rank")
    if len(chosen) != settings.n_genes:
        raise RuntimeError(f"Expected {settings.n_genes} highly variable genes, scanpy returned {len(chosen)}.")
    return pd.DataFrame(
        {
            GENE: chosen.index,
            GENE_IDS: candidates.var.loc[chosen.index, GENE_IDS].to_numpy(),
            "mean": chosen["means"].to_numpy(),
            "variance": chosen["variances"].to_numpy(),
            "rank": np.arange(len(chosen)),
        }
    )


def _usable(training: AnnData, min_spots: int) -> NDArray[np.bool_]:
    counts = training.X.tocsc().astype(np.float64)
    n_expressing = np.asarray((counts > 0).sum(axis=0)).ravel()
    total = np.asarray(counts.sum(axis=0)).ravel()
    squares = np.asarray(counts.multiply(counts).sum(axis=0)).ravel()
    usable: NDArray[np.bool_] = (n_expressing >= min_spots) & (squares * training.n_obs > total**2)
    return usable

"""The gene panel: which genes are predicted, chosen on training spots only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS
from spamcaf.sections.gene_names import closest, find_genes, named
from spamcaf.sections.spatial_genes import most_spatial
from spamcaf.sections.variable_genes import is_varying, most_variable

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import PanelSettings

logger = logging.getLogger(__name__)

GENE = "gene"
CHOSEN_BY = {"seurat_v3": "variability", "moran": "spatial"}
REQUEST = "request"
FEWEST_GENES = 2


def choose_gene_panel(training: AnnData, settings: PanelSettings) -> pd.DataFrame:
    """Choose the genes to predict, from the training spots' raw counts.

    Returns a table with gene, gene_ids, mean, variance and chosen_by (variability | spatial | request). With
    `settings.genes` the panel is exactly those, in their order. Else it holds `n_genes`, or all that there are: the
    highest ranked by `settings.method`, first, and those of `include`, which take the place of the lowest ranked. Genes
    expressed in fewer than `min_spots` training spots, or constant there, are not chosen by a method. Raises InputError
    without training spots, for genes that are unknown or cannot be learned, and when too few genes are left to rank.
    """
    if training.n_obs == 0:
        raise InputError(
            "no training spots in this section (split.protocol=section hides all of them).",
            "other sections of the same tissue to learn from.",
            "Name them, once they are ingested and embedded: --params other_sections=<name>+<name>.",
        )
    varying = is_varying(training)
    if settings.genes:
        return _table(training, _exactly(training, varying, settings.genes), REQUEST)
    return _ranked(training, varying, settings)


def _exactly(training: AnnData, varying: NDArray[np.bool_], asked: list[str]) -> list[str]:
    genes, unknown = find_genes(asked, training.var)
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(asked)} genes of panel.genes are not in the section: "
            f"{', '.join(_with_closest(gene, training.var) for gene in unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}.",  # noqa: PLR2004
            f"symbols or Ensembl ids of its {training.n_vars} genes.",
            "Correct panel.genes, or leave these out.",
        )
    flat = [gene for gene in genes if not varying[training.var_names.get_loc(gene)]]
    if flat:
        raise InputError(
            f"{len(flat)} of {len(genes)} genes of panel.genes are absent from, or constant on, all training spots: "
            f"{named(flat)}.",
            "genes that vary over the training spots: others cannot be learned.",
            "Leave them out of panel.genes.",
        )
    if len(genes) < FEWEST_GENES:
        raise InputError(f"{len(genes)} different gene in panel.genes.", "at least 2.", "Name another gene.")
    return genes


def _with_closest(gene: str, var: pd.DataFrame) -> str:
    close = closest(gene, var)
    return f"{gene} (like {' or '.join(close)})" if close else gene


def _ranked(training: AnnData, varying: NDArray[np.bool_], settings: PanelSettings) -> pd.DataFrame:
    n_expressing = np.asarray((training.X > 0).sum(axis=0)).ravel()
    usable = varying & (n_expressing >= settings.min_spots)
    n_genes = _at_most(settings, int(usable.sum()), training)
    asked = _included(training, usable, settings)
    if settings.method == "moran":
        ranked = most_spatial(training, usable, n_genes)
    else:
        ranked = most_variable(training[:, usable].copy(), n_genes)
    chosen = [gene for gene in ranked if gene not in set(asked)][: n_genes - len(asked)]
    return _table(training, chosen, CHOSEN_BY[settings.method], asked)


def _at_most(settings: PanelSettings, n_usable: int, training: AnnData) -> int:
    """Return how many genes the panel holds: those asked for, or all that can be learned where they are fewer."""
    found = (
        f"{n_usable} of {training.n_vars} genes are expressed in at least {settings.min_spots} of {training.n_obs} "
        "training spots (panel.min_spots) and vary"
    )
    if n_usable < FEWEST_GENES:
        raise InputError(
            f"{found}.",
            f"at least {FEWEST_GENES}, of which at most {settings.n_genes} are chosen (panel.n_genes).",
            "Check the counts, lower panel.min_spots, or hide fewer spots (split.hidden_share).",
        )
    if n_usable < settings.n_genes:
        logger.warning("%s: the panel holds these, not %d (panel.n_genes)", found, settings.n_genes)
    return min(settings.n_genes, n_usable)


def _included(training: AnnData, usable: NDArray[np.bool_], settings: PanelSettings) -> list[str]:
    genes, unknown = find_genes(settings.include, training.var)
    rare = [gene for gene in genes if not usable[training.var_names.get_loc(gene)]]
    if unknown or rare:
        lost = named([*unknown, *rare])
        logger.warning("asked for but absent, or in too few training spots to learn from: %s", lost)
    kept = [gene for gene in genes if gene not in set(rare)]
    if len(kept) > settings.n_genes:
        raise InputError(
            f"{len(kept)} genes in panel.include.",
            f"at most {settings.n_genes} (panel.n_genes).",
            "Raise panel.n_genes, or name exactly the genes to predict: panel.genes.",
        )
    return kept


def _table(training: AnnData, genes: list[str], chosen_by: str, requested: list[str] | None = None) -> pd.DataFrame:
    import pandas as pd

    requested = requested or []
    everything = [*genes, *requested]
    counts = training[:, everything].X.astype(np.float64)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    return pd.DataFrame(
        {
            GENE: everything,
            GENE_IDS: training.var.loc[everything, GENE_IDS].to_numpy(),
            "mean": mean,
            "variance": np.asarray(counts.multiply(counts).mean(axis=0)).ravel() - mean**2,
            "chosen_by": [chosen_by] * len(genes) + [REQUEST] * len(requested),
        }
    )

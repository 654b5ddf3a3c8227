"""The gene panel: which genes are predicted, chosen on training spots only, and their normalised expression."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, SectionField
from spamcaf.sections.gene_names import closest, find_genes, named

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from spamcaf.parameters import PanelSettings

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

    facts = training.uns[SECTION_METADATA]
    reach_px = REACH_PITCHES * float(facts[SectionField.PITCH_UM]) / float(facts[SectionField.MPP])
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


logger = logging.getLogger(__name__)

FEWEST_TREND_GENES = 4
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
    if candidates.n_vars < FEWEST_TREND_GENES:
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


GENE = "gene"
CHOSEN_BY = {"seurat_v3": "variability", "moran": "spatial"}
REQUEST = "request"
FEWEST_PANEL_GENES = 2


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
    if len(genes) < FEWEST_PANEL_GENES:
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
    if n_usable < FEWEST_PANEL_GENES:
        raise InputError(
            f"{found}.",
            f"at least {FEWEST_PANEL_GENES}, of which at most {settings.n_genes} are chosen (panel.n_genes).",
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

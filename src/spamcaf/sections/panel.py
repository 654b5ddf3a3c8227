"""The gene panel: which genes are predicted, chosen on training spots only, and their normalised expression."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.compute import threads_kept
from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, SectionField
from spamcaf.sections.gene_names import closest, find_genes, named

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_array

    from spamcaf.parameters import PanelSettings

logger = logging.getLogger(__name__)

TARGET_SUM = 10_000  # counts per spot that expression is normalised to
DEPTH, COUNTS, GENE = "depth", "counts", "gene"
PROGRAM_GENES = "program_genes"
"""`obsm` key of the expression of genes that only help to learn gene programs; `uns` key of their ids."""

_FEWEST_PANEL_GENES = 2
_CHOSEN_BY = {"seurat_v3": "variability", "moran": "spatial"}
_FEWEST_TREND_GENES = 4  # with fewer, the loess of seurat_v3 crashes the process (segmentation fault)
# shares of the genes in one local fit of variance on mean; few genes, or many of one mean, need more than scanpy's 0.3
_SPANS = (0.3, 0.6, 1.0)
_LEAST_VARIATION = 1e-9  # smallest squared coefficient of variation: below it scanpy's variance may round to 0
_REACH_PITCHES = 1.2  # neighbours on the lattice are one pitch apart, the next ones at least 1.4
_GENES_PER_CHUNK = 512  # genes at a time in Moran's I: 20 MB of dense values for 5000 spots


def choose_gene_panel(training: AnnData, settings: PanelSettings) -> pd.DataFrame:
    """Choose the genes to predict, from the training spots' raw counts.

    With `settings.genes` the panel is exactly those, in their order. Else it holds `n_genes`, or all that there are:
    the highest ranked by `settings.method`, first, and those of `include`, which take the place of the lowest ranked.
    Genes expressed in fewer than `min_spots` training spots, or constant there, are not chosen by a method. The table
    has a row per gene: gene, gene_ids, mean and variance of its counts, and chosen_by (variability, spatial, request).
    `training` holds training spots alone: hidden ones must not influence the choice.

    Raises
    ------
    InputError : without training spots, for genes that are unknown or cannot be learned, when too few are left to rank
    """
    if training.n_obs == 0:
        raise InputError(
            "no training spots in this section (split.protocol=section hides all of them).",
            "other sections of the same tissue to learn from.",
            "Name them, once they are ingested and embedded: --params other_sections=<name>+<name>.",
        )
    varying = is_varying(training)
    if settings.genes:
        return _table(training, [], "", _exactly(training, varying, settings.genes))
    n_expressing = np.asarray((training.X > 0).sum(axis=0)).ravel()
    usable = varying & (n_expressing >= settings.min_spots)
    n_genes = _at_most(settings, int(usable.sum()), training)
    requested = _included(training, usable, settings)
    if settings.method == "moran":
        ranked = most_spatial(training, usable, n_genes)
    else:
        ranked = _most_variable(training[:, usable].copy(), n_genes)
    chosen = [gene for gene in ranked if gene not in set(requested)][: n_genes - len(requested)]
    return _table(training, chosen, _CHOSEN_BY[settings.method], requested)


def choose_program_genes(training: AnnData, panel: pd.DataFrame, n_genes: int) -> pd.DataFrame:
    """Choose genes beside the panel that gene programs are learned from too: those found in most training spots.

    Returns their `gene` and `gene_ids`, at most `n_genes` rows; genes of equal rank in the order of `training`.
    """
    n_expressing = np.asarray((training.X > 0).sum(axis=0)).ravel()
    n_expressing[~is_varying(training) | training.var_names.isin(panel[GENE])] = 0
    order = np.argsort(-n_expressing, kind="stable")[:n_genes]
    chosen = training.var.iloc[order[n_expressing[order] > 0]]
    return chosen[[GENE_IDS]].rename_axis(GENE).reset_index()


def normalise_expression(section: AnnData, panel: pd.DataFrame, program_genes: pd.DataFrame | None = None) -> AnnData:
    """Normalise the counts of the panel's genes to log1p of counts per 10 000.

    Parameters
    ----------
    section : checked section with raw counts of all genes
    panel : its column `gene` names the genes
    program_genes : the same of genes that are not predicted, see `choose_program_genes`

    Returns
    -------
    AnnData with the section's spots in their order: X (spot, gene) float32 dense, raw counts as `layers["counts"]`, and
        the UMI count over all genes, which counts are divided by, as `obs["depth"]` float64. Expression of
        `program_genes` is `obsm["program_genes"]`, their ids are `uns["program_genes"]`.
    """
    genes = panel[GENE].tolist()
    counts = section[:, genes].X
    depth = np.asarray(section.X.sum(axis=1)).ravel().astype(np.float64)
    expression = section[:, genes].copy()
    expression.X = log_cp10k(counts, depth)
    expression.layers[COUNTS] = counts
    expression.obs = section.obs.assign(**{DEPTH: depth})
    expression.var = section.var.loc[genes, [GENE_IDS]]
    expression.obsm = {SPATIAL: section.obsm[SPATIAL]}
    if program_genes is not None and len(program_genes):
        others = program_genes[GENE].tolist()
        expression.obsm[PROGRAM_GENES] = log_cp10k(section[:, others].X, depth)
        expression.uns[PROGRAM_GENES] = section.var.loc[others, GENE_IDS].to_numpy(str)
    return expression


def log_cp10k(counts: csr_array, depth: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return log1p of counts per 10 000 of `depth` (spot,), dense (spot, gene), of sparse `counts` (spot, gene)."""
    expression: NDArray[np.float32] = np.log1p(counts.toarray() / depth[:, None] * TARGET_SUM).astype(np.float32)
    return expression


def morans_i(values: NDArray[np.floating], weights: csr_array) -> NDArray[np.float64]:
    """Return Moran's I, the spatial autocorrelation, of each column of `values`; NaN for one without variance.

    Parameters
    ----------
    values : (site, gene)
    weights : (site, site) sparse, how much each site is a neighbour of each other; they sum to the number of sites

    References
    ----------
    Moran, P. A. P. (1950). Notes on continuous stochastic phenomena. Biometrika 37, 17-23.
    """
    centred = values - values.mean(axis=0, dtype=np.float64)
    spread = (centred**2).sum(axis=0)
    product = (centred * (weights @ centred)).sum(axis=0)
    return np.divide(product, spread, out=np.full(len(spread), np.nan), where=spread > 0)


def is_varying(counts: AnnData) -> NDArray[np.bool_]:
    """Tell which genes (gene,) vary over the spots of `counts`, beyond what rounding could hide."""
    mean, variance = _mean_and_variance(counts)
    return np.asarray(variance > _LEAST_VARIATION * mean**2)


def _mean_and_variance(counts: AnnData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = counts.X.astype(np.float64)
    mean = np.asarray(values.mean(axis=0)).ravel()
    return mean, np.asarray(values.multiply(values).mean(axis=0)).ravel() - mean**2


def most_spatial(training: AnnData, candidates: NDArray[np.bool_], n_genes: int) -> list[str]:
    """Return the names of the `n_genes` of `candidates` (gene,) with the highest Moran's I, the highest first.

    Moran's I is that of log1p of counts per 10 000 over the spots of `training` that are lattice neighbours; raises
    InputError where none are.
    """
    weights, genes = _neighbour_weights(training), np.flatnonzero(candidates)
    counts = training.X.tocsc()
    depth = np.asarray(counts.sum(axis=1)).astype(np.float64).reshape(-1, 1)
    score = np.empty(len(genes))
    for start in range(0, len(genes), _GENES_PER_CHUNK):
        chunk = slice(start, start + _GENES_PER_CHUNK)
        expression = np.log1p(counts[:, genes[chunk]].toarray() * (TARGET_SUM / np.maximum(depth, 1)))
        score[chunk] = morans_i(expression, weights)
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:n_genes]
    return [str(gene) for gene in training.var_names[candidates][order]]


def _neighbour_weights(training: AnnData) -> csr_array:
    """Return equal weights for all pairs of lattice neighbours (spot, spot)."""
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    metadata = training.uns[SECTION_METADATA]
    reach_px = _REACH_PITCHES * float(metadata[SectionField.PITCH_UM]) / float(metadata[SectionField.MPP])
    pairs = cKDTree(np.asarray(training.obsm[SPATIAL])).query_pairs(reach_px, output_type="ndarray")
    if len(pairs) == 0:
        raise InputError(
            f"no two of {training.n_obs} training spots are neighbours.",
            "neighbours, for panel.method=moran.",
            "Hide fewer spots (split.hidden_share), or use panel.method=seurat_v3.",
        )
    row, column = np.concatenate([pairs, pairs[:, ::-1]]).T
    weight = np.full(len(row), training.n_obs / len(row))
    return csr_array((weight, (row, column)), shape=(training.n_obs, training.n_obs))


def _most_variable(candidates: AnnData, n_genes: int) -> list[str]:
    """Return the `n_genes` genes of raw counts that vary most for their mean (seurat_v3), the most variable first."""
    import scanpy as sc

    for span in _SPANS if candidates.n_vars >= _FEWEST_TREND_GENES else ():
        try:
            with threads_kept():  # scanpy computes with numba
                scored = sc.pp.highly_variable_genes(
                    candidates, flavor="seurat_v3", n_top_genes=n_genes, span=span, inplace=False
                )
        except ValueError as error:  # how loess reports a singular fit
            logger.debug("seurat_v3 with a span of %.1f: %s", span, error)
            continue
        if not np.isfinite(scored["variances_norm"]).all():
            continue
        if span != _SPANS[0]:
            logger.info("few genes, or many of one mean: variance fitted on mean with a span of %.1f", span)
        scored.index = candidates.var_names
        chosen = scored[scored["highly_variable"]].sort_values("highly_variable_rank")
        if len(chosen) != n_genes:
            raise RuntimeError(f"Expected {n_genes} highly variable genes, scanpy returned {len(chosen)}.")
        return [str(gene) for gene in chosen.index]
    raise InputError(
        f"{candidates.n_vars} genes to choose from, too few or too many of one mean to fit their variance on their "
        "mean.",
        "more genes, of different means.",
        "Name the genes (panel.genes), or rank them by spatial pattern: --params panel.method=moran.",
    )


def require_genes(var: pd.DataFrame, requested: list[str]) -> list[str]:
    """Return the names of genes that are requested by symbol or id; raise InputError for those that are not there."""
    genes, unknown = find_genes(requested, var)
    if unknown:
        close = {gene: " or ".join(closest(gene, var)) for gene in unknown[:5]}
        shown = [f"{gene} (like {close[gene]})" if close.get(gene) else gene for gene in unknown]
        raise InputError(
            f"{len(unknown)} of {len(requested)} genes of panel.genes are not in the section: {named(shown, 5)}.",
            f"symbols or Ensembl ids of its {len(var)} genes.",
            "Correct panel.genes, or leave these out.",
        )
    return genes


def _exactly(training: AnnData, varying: NDArray[np.bool_], requested: list[str]) -> list[str]:
    genes = require_genes(training.var, requested)
    flat = [gene for gene in genes if not varying[training.var_names.get_loc(gene)]]
    if flat:
        raise InputError(
            f"{len(flat)} of {len(genes)} genes of panel.genes are absent from, or constant on, all training spots: "
            f"{named(flat)}.",
            "genes that vary over the training spots: others cannot be learned.",
            "Leave them out of panel.genes.",
        )
    if len(genes) < _FEWEST_PANEL_GENES:
        raise InputError(f"{len(genes)} different gene in panel.genes.", "at least 2.", "Name another gene.")
    return genes


def _at_most(settings: PanelSettings, n_usable: int, training: AnnData) -> int:
    """Return how many genes the panel holds: `n_genes`, or all that can be learned where they are fewer."""
    found = (
        f"{n_usable} of {training.n_vars} genes are expressed in at least {settings.min_spots} of {training.n_obs} "
        "training spots (panel.min_spots) and vary"
    )
    if n_usable < _FEWEST_PANEL_GENES:
        raise InputError(
            f"{found}.",
            f"at least {_FEWEST_PANEL_GENES}, of which at most {settings.n_genes} are chosen (panel.n_genes).",
            "Check the counts, lower panel.min_spots, or hide fewer spots (split.hidden_share).",
        )
    if n_usable < settings.n_genes:
        logger.warning("%s: the panel holds these, not %d (panel.n_genes)", found, settings.n_genes)
    return min(settings.n_genes, n_usable)


def _included(training: AnnData, usable: NDArray[np.bool_], settings: PanelSettings) -> list[str]:
    genes, unknown = find_genes(settings.include, training.var)
    rare = [gene for gene in genes if not usable[training.var_names.get_loc(gene)]]
    if lost := [*unknown, *rare]:
        logger.warning("requested but absent, or in too few training spots to learn from: %s", named(lost))
    kept = [gene for gene in genes if gene not in set(rare)]
    if len(kept) > settings.n_genes:
        raise InputError(
            f"{len(kept)} genes in panel.include.",
            f"at most {settings.n_genes} (panel.n_genes).",
            "Raise panel.n_genes, or name exactly the genes to predict: panel.genes.",
        )
    return kept


def _table(training: AnnData, ranked: list[str], chosen_by: str, requested: list[str]) -> pd.DataFrame:
    import pandas as pd

    genes = [*ranked, *requested]
    mean, variance = _mean_and_variance(training[:, genes])
    by = [chosen_by] * len(ranked) + ["request"] * len(requested)
    ids = training.var.loc[genes, GENE_IDS].to_numpy()
    return pd.DataFrame({GENE: genes, GENE_IDS: ids, "mean": mean, "variance": variance, "chosen_by": by})

"""What a score could reach: the noise ceiling of the counts, and the limit that hidden spots' own other genes set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.model.programs import scaled_svd
from spamcaf.names import Metric
from spamcaf.scoring.metrics import Array, correlate, gene_blocks, summarise_pearson

Counts = NDArray[np.int64]

_FEWEST_VISIBLE, _FEWEST_GENES = 20, 4

_N_REPEATS = 5
_SCALE = 10_000
_N_PROGRAMS = 12
_ALPHAS = np.logspace(-4, 4, 25)


def noise_ceiling(
    counts: NDArray[np.number], depth: NDArray[np.number], genes: Sequence[str], seed: int
) -> pd.DataFrame:
    """Estimate the correlation with the measurement that a perfect prediction would reach: a row per gene.

    All counts are split at random into two halves (binomial thinning, 5 times), each half is normalised to log1p of
    counts per 10 000, and the mean correlation r of the halves is raised to full depth by the Spearman-Brown formula:
    reliability = 2r / (1 + r), a negative r counted as 0. The ceiling is its square root. All are NaN where a half is
    constant. Raises ValueError where counts are not raw, or the depth is less than their sum.

    `counts` (spot, gene) are raw UMI counts of the panel, `depth` (spot,) those of all genes.

    References
    ----------
    Spearman (1904), The proof and measurement of association between two things, Am. J. Psychol. 15, 72-101.
    Batson, Royer and Webber (2019), Molecular cross-validation for single-cell RNA-seq, bioRxiv 786269.
    """
    whole, rest = _require_counts(counts, depth)
    rng = np.random.default_rng(seed)
    r = np.mean([_half_correlation(whole, rest, rng) for _ in range(_N_REPEATS)], axis=0)
    reliability = 2 * np.clip(r, 0, None) / (1 + np.clip(r, 0, None))
    columns = {"half_correlation": r, "reliability": reliability, "ceiling": np.sqrt(reliability)}
    return pd.DataFrame({"gene": list(genes), **columns})


def summarise_ceiling(gene_ceilings: pd.DataFrame) -> dict[str, float | int | None]:
    """Return mean, median and top-50 ceiling of the panel by `Metric`; an undefined ceiling counts as 0."""
    ceiling = gene_ceilings["ceiling"]
    return summarise_pearson(ceiling.fillna(0.0).to_numpy()) | {str(Metric.UNDEFINED): int(ceiling.isna().sum())}


def reachable_limit(visible: Array, hidden: Array, genes: Sequence[str], seed: int) -> pd.DataFrame | None:
    """Estimate the correlation that a prediction can reach which does not see a spot's own counts.

    The noise ceiling is out of reach, because thinned halves share a spot's depth. Here the genes are split at random
    into halves A and B. On visible spots B is regressed on the 12 leading programs of A by ridge, the penalty chosen by
    leave-one-out cross-validation; then B of the hidden spots is predicted from their own A, and A from B. A model that
    knows image and neighbours only has less to go by than the spot's own other genes.

    Parameters
    ----------
    visible, hidden : (spot, gene)
        log1p of counts per 10 000.
    genes : sequence of str
    seed : int
        Of the halves.

    Returns
    -------
    DataFrame or None
        A row per gene: gene, limit; NaN where it is constant. None below 20 visible spots or 4 genes.
    """
    if len(visible) < _FEWEST_VISIBLE or len(genes) < _FEWEST_GENES:
        return None
    limit = np.full(len(genes), np.nan)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(genes)), 2)
    for known, wanted in (halves, halves[::-1]):
        predicted = _regress_on_programs(visible[:, known], visible[:, wanted], hidden[:, known])
        limit[wanted] = correlate(hidden[:, wanted], predicted)
    return pd.DataFrame({"gene": list(genes), "limit": limit})


def summarise_limit(gene_limits: pd.DataFrame) -> dict[str, float]:
    """Return the mean limit of the panel by `Metric`; an undefined one counts as 0."""
    return {str(Metric.PCC_MEAN): float(gene_limits["limit"].fillna(0.0).mean())}


def _regress_on_programs(known: Array, wanted: Array, known_at_sites: Array) -> Array:
    """Learn `wanted` (spot, gene) from programs of `known` (spot, gene); predict it (site, gene) at sites."""
    from sklearn.linear_model import RidgeCV

    mean = known.mean(axis=0, dtype=np.float64)
    scale, loadings = scaled_svd(known - mean)
    spots, sites = ((values - mean) / scale @ loadings[:_N_PROGRAMS].T for values in (known, known_at_sites))
    predicted: Array = RidgeCV(_ALPHAS).fit(spots, wanted.astype(np.float64)).predict(sites)
    return predicted


def _half_correlation(counts: Counts, rest: Counts, rng: np.random.Generator) -> Array:
    # the other genes are thinned too: they make the depth by which both halves are normalised
    half, half_rest = rng.binomial(counts, 0.5), rng.binomial(rest, 0.5)
    depth = half.sum(axis=1) + half_rest
    other_depth = counts.sum(axis=1) + rest - depth
    parts = [
        correlate(_normalise(half[:, genes], depth), _normalise(counts[:, genes] - half[:, genes], other_depth))
        for genes in gene_blocks(counts.shape[1])
    ]
    return np.concatenate(parts)


def _normalise(counts: Counts, depth: Counts) -> Array:
    return np.log1p(counts * (_SCALE / np.maximum(depth, 1)[:, None]))


def _require_counts(counts: NDArray[np.number], depth: NDArray[np.number]) -> tuple[Counts, Counts]:
    """Return counts and the counts of all other genes as whole numbers, or raise ValueError."""
    whole = np.asarray(counts)
    bad = ~np.isfinite(whole) | (whole < 0) | (whole != np.floor(whole))
    if bad.any():
        raise ValueError(
            f"The noise ceiling needs raw counts, whole and not negative; found {int(bad.sum())} other values of "
            f"{bad.size}. Give the section's X, not normalised expression."
        )
    whole = whole.astype(np.int64)
    rest = np.round(np.asarray(depth)).astype(np.int64) - whole.sum(axis=1)
    if (rest < 0).any():
        raise ValueError(
            f"Expected each spot's depth to be at least the sum of its counts, found {int((rest < 0).sum())} spots "
            "where it is less. Give the total over all genes, not over the panel."
        )
    return whole, rest

"""How well each gene is predicted: metrics per gene, Moran's I, coverage of intervals, and the noise ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import Metric

_GENES_PER_BLOCK = 256
_N_TOP = 50
_GOOD_PCC = 0.3
_MIN_SITES = 3
_CONSTANT = 1e-6
"""A gene that varies by less than this share of its largest value is constant: float32 rounding reaches 1e-7."""


def score_genes(
    truth: NDArray[np.floating], prediction: NDArray[np.floating], genes: Sequence[str], model: str = "prediction"
) -> pd.DataFrame:
    """Score a (site, gene) prediction against the truth, gene by gene.

    Returns one row per gene: gene, pearson, spearman, mse, mae, rmse, variance_ratio (predicted / true; NaN for a
    constant truth) and undefined. Where truth or prediction is constant, a correlation is undefined: it is marked and
    scored 0, for a model that says nothing about a gene must not be better off than one that tries.
    Raises ValueError where shapes disagree or a value is not finite, naming `model`.
    """
    _check(truth, prediction, genes, model)
    blocks = [slice(start, start + _GENES_PER_BLOCK) for start in range(0, len(genes), _GENES_PER_BLOCK)]
    scores = pd.concat([_score_block(truth[:, b], prediction[:, b]) for b in blocks], ignore_index=True)
    scores.insert(0, "gene", list(genes))
    return scores


def summarise(gene_scores: pd.DataFrame) -> dict[str, float | int | None]:
    """Return one model's scores over all genes: means, unless the name says otherwise.

    `pcc_top50` averages the model's own 50 best genes, picked by the very scores it averages: a flattering figure that
    the field reports. `variance_ratio` is the median over genes, None where no gene's truth varies.
    """
    pearson = gene_scores["pearson"].to_numpy()
    ratio = gene_scores["variance_ratio"].dropna()
    return {
        str(Metric.PCC_MEAN): float(pearson.mean()),
        str(Metric.PCC_MEDIAN): float(np.median(pearson)),
        str(Metric.PCC_TOP50): float(np.sort(pearson)[-_N_TOP:].mean()),
        str(Metric.SPEARMAN_MEAN): float(gene_scores["spearman"].mean()),
        str(Metric.MSE): float(gene_scores["mse"].mean()),
        str(Metric.MAE): float(gene_scores["mae"].mean()),
        str(Metric.RMSE): float(gene_scores["rmse"].mean()),
        str(Metric.SHARE_ABOVE): float((pearson > _GOOD_PCC).mean()),
        str(Metric.UNDEFINED): int(gene_scores["undefined"].sum()),
        str(Metric.VARIANCE_RATIO): float(ratio.median()) if len(ratio) else None,
    }


def correlate(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Pearson correlation of each column of two (site, gene) arrays, NaN where either is constant."""
    undefined = is_constant(a) | is_constant(b)
    a = a - a.mean(axis=0, dtype=np.float64)
    b = b - b.mean(axis=0, dtype=np.float64)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    product = (a * b).sum(axis=0)
    found = np.divide(product, norm, out=np.full(len(norm), np.nan), where=~undefined & (norm > 0))
    return np.clip(found, -1.0, 1.0)


def is_constant(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return for each column of a (site, gene) array whether it is constant up to rounding."""
    return np.ptp(values, axis=0) <= _CONSTANT * np.abs(values).max(axis=0)


def _score_block(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> pd.DataFrame:
    from scipy.stats import rankdata

    truth, prediction = truth.astype(np.float64), prediction.astype(np.float64)
    pearson = correlate(truth, prediction)
    undefined = np.isnan(pearson)
    spearman = correlate(rankdata(truth, axis=0), rankdata(prediction, axis=0))
    error = prediction - truth
    mse = (error**2).mean(axis=0)
    varies = ~is_constant(truth)
    ratio = np.divide(prediction.var(axis=0), truth.var(axis=0), out=np.full(len(mse), np.nan), where=varies)
    return pd.DataFrame(
        {
            "pearson": np.where(undefined, 0.0, pearson),
            "spearman": np.where(undefined, 0.0, spearman),
            "mse": mse,
            "mae": np.abs(error).mean(axis=0),
            "rmse": np.sqrt(mse),
            "variance_ratio": ratio,
            "undefined": undefined,
        }
    )


def _check(truth: NDArray[np.floating], prediction: NDArray[np.floating], genes: Sequence[str], model: str) -> None:
    if truth.shape != prediction.shape or truth.ndim != 2 or truth.shape[1] != len(genes):  # noqa: PLR2004
        raise ValueError(
            f"{model}: expected truth and prediction as (site, {len(genes)} genes), found {truth.shape} and "
            f"{prediction.shape}. Select both by the same sites and genes."
        )
    if len(truth) < _MIN_SITES or not len(genes):
        raise InputError(
            f"{len(truth)} sites and {len(genes)} genes to score {model} at.",
            f"at least {_MIN_SITES} sites and 1 gene.",
            "Hide more spots or choose a larger panel.",
        )
    for name, values in ((model, prediction), ("truth", truth)):
        n_bad = int((~np.isfinite(values)).sum())
        if n_bad:
            raise ValueError(
                f"{name}: found {n_bad} of {values.size} values that are NaN or infinite, expected none. "
                f"Look at what '{name}' is computed from; nothing was scored."
            )


NEIGHBOURS = {"hexagonal": 6, "square": 4}
"""Neighbours of a spot on each lattice."""


def morans_i(values: NDArray[np.floating], xy_um: NDArray[np.float64], n_neighbours: int) -> NDArray[np.float64]:
    """Return Moran's I of each column of `values` (site, gene), NaN where it is constant.

    Each site's weight is shared equally by its `n_neighbours` nearest sites among `xy_um` (site, 2).
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    n_sites = len(xy_um)
    if n_sites <= n_neighbours:
        raise ValueError(
            f"Moran's I with {n_neighbours} neighbours needs more than {n_neighbours} sites, found {n_sites}."
        )
    _, found = cKDTree(xy_um).query(xy_um, k=n_neighbours + 1)
    # not simply found[:, 1:]: of two sites at one place either may come first
    keep = found != np.arange(n_sites)[:, None]
    keep[keep.all(axis=1), -1] = False
    pointer = np.arange(n_sites + 1) * n_neighbours
    weights = csr_array((np.full(keep.sum(), 1 / n_neighbours), found[keep], pointer), shape=(n_sites, n_sites))
    centred = values - values.mean(axis=0, dtype=np.float64)
    spread = (centred**2).sum(axis=0)
    product = (centred * (weights @ centred)).sum(axis=0)
    return np.divide(product, spread, out=np.full(len(spread), np.nan), where=~is_constant(values))


def moran_ratio(
    truth: NDArray[np.floating], prediction: NDArray[np.floating], xy_um: NDArray[np.float64], n_neighbours: int
) -> float | None:
    """Return mean Moran's I of the prediction / that of the truth, over genes where both are defined.

    Above 1 the prediction is smoother than the measurement. None where no gene is defined or the truth shows no
    positive autocorrelation to compare with. A ratio of means, for the ratio of one noisy gene may be anything.
    """
    true_i, predicted_i = (morans_i(values, xy_um, n_neighbours) for values in (truth, prediction))
    defined = np.isfinite(true_i) & np.isfinite(predicted_i)
    if not defined.any() or true_i[defined].mean() <= 0:
        return None
    return float(predicted_i[defined].mean() / true_i[defined].mean())


def interval_coverage(
    truth: NDArray[np.floating], prediction: NDArray[np.floating], sd: NDArray[np.floating], level: float = 0.9
) -> float:
    """Return the share of true values inside the central normal interval of probability `level`.

    All three are (site, gene). Right is a value near `level`; below it the model is too sure of itself. `sd` must
    include the noise of a measurement, for it is measurements that are counted.
    """
    width = NormalDist().inv_cdf(0.5 + level / 2)
    return float((np.abs(truth - prediction) <= width * sd).mean())


_N_REPEATS = 5
_SCALE = 10_000


def noise_ceiling(
    counts: NDArray[np.number], depth: NDArray[np.number], genes: Sequence[str], seed: int
) -> pd.DataFrame:
    """Return one row per gene: gene, half_correlation, reliability, ceiling; NaN where a half is constant.

    `counts` are raw UMI counts (spot, gene) of the panel, `depth` (spot,) the spots' totals over all genes. The counts
    are split at random into two halves (binomial thinning, five times), both halves become log1p of counts per 10 000,
    and their mean correlation r is brought to full depth by Spearman-Brown: reliability = 2r / (1 + r), the
    correlation of two such measurements. The expression behind them correlates with one of them by its square root:
    that is the ceiling. It holds for the spots given; a negative r counts as 0.
    """
    whole, rest = _require_counts(counts, depth)
    rng = np.random.default_rng(seed)
    r = np.mean([_half_correlation(whole, rest, rng) for _ in range(_N_REPEATS)], axis=0)
    reliability = 2 * np.clip(r, 0, None) / (1 + np.clip(r, 0, None))
    return pd.DataFrame(
        {"gene": list(genes), "half_correlation": r, "reliability": reliability, "ceiling": np.sqrt(reliability)}
    )


def summarise_ceiling(gene_ceilings: pd.DataFrame) -> dict[str, float | int]:
    """Return mean, median and top-50 ceiling of the panel, an undefined gene counted as 0 like everywhere else."""
    ceiling = gene_ceilings["ceiling"].fillna(0.0).to_numpy()
    return {
        "pcc_mean": float(ceiling.mean()),
        "pcc_median": float(np.median(ceiling)),
        "pcc_top50": float(np.sort(ceiling)[-50:].mean()),
        "n_undefined": int(gene_ceilings["ceiling"].isna().sum()),
    }


def _half_correlation(
    counts: NDArray[np.int64], rest: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float64]:
    half = rng.binomial(counts, 0.5)
    half_rest = rng.binomial(rest, 0.5)
    return correlate(_normalise(half, half_rest), _normalise(counts - half, rest - half_rest))


def _normalise(counts: NDArray[np.int64], rest: NDArray[np.int64]) -> NDArray[np.float64]:
    depth = np.maximum(counts.sum(axis=1) + rest, 1)
    return np.log1p(counts * (_SCALE / depth[:, None]))


def _require_counts(
    counts: NDArray[np.number], depth: NDArray[np.number]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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

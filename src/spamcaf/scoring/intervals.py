"""95 % intervals of scores by bootstrap over genes, and of a gene's PCC difference by bootstrap over spots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.names import Metric
from spamcaf.scoring.metrics import GENES_PER_BLOCK, GOOD_PCC, N_TOP

Array = NDArray[np.floating]
Samples = Mapping[str, Array]
"""A bootstrapped score (sample,) by model; sample i is of the same genes for every model."""

_N_SAMPLES = 1000
_N_SPOT_SAMPLES = 400
_PERCENTILES = (2.5, 97.5)


def bootstrap(by_gene: Mapping[str, pd.DataFrame], seed: int) -> dict[Metric, dict[str, Array]]:
    """Draw genes with replacement, the same for every model, and summarise each draw as `metrics.summarise` does.

    The spread tells how far a score depends on which genes the panel holds. It does not tell how far it depends on
    which spots were hidden, and since genes vary together it is rather too narrow.

    Parameters
    ----------
    by_gene : dict of DataFrame
        By model, as `metrics.score_genes` returns it.
    seed : int

    Returns
    -------
    dict
        By metric and model, 1000 scores. Metrics that are no summary over genes are missing.
    """
    n_genes = len(next(iter(by_gene.values())))
    times = np.random.default_rng(seed).multinomial(n_genes, np.full(n_genes, 1 / n_genes), _N_SAMPLES)
    found: dict[Metric, dict[str, Array]] = {}
    for metric, (column, summarise) in _SUMMARIES.items():
        values = {name: rows[column].to_numpy(np.float64) for name, rows in by_gene.items() if column in rows}
        samples = {
            name: summarise(times[:, known], v[known]) for name, v in values.items() if (known := np.isfinite(v)).any()
        }
        if samples:
            found[metric] = samples
    return found


def _mean(times: NDArray[np.int64], values: Array) -> Array:
    return times @ values / np.maximum(times.sum(axis=1), 1)


def _share_above(times: NDArray[np.int64], values: Array) -> Array:
    return _mean(times, (values > GOOD_PCC).astype(np.float64))


def _top(times: NDArray[np.int64], values: Array) -> Array:
    order = np.argsort(-values, kind="stable")
    taken = np.minimum(np.cumsum(times[:, order], axis=1), N_TOP)
    return np.diff(taken, axis=1, prepend=0) @ values[order] / np.maximum(taken[:, -1], 1)


def _median(times: NDArray[np.int64], values: Array) -> Array:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(times[:, order], axis=1)
    half = below[:, -1:] / 2
    upper = values[order][np.minimum((below <= half).sum(axis=1), len(values) - 1)]
    return (values[order][(below < half).sum(axis=1)] + upper) / 2


_SUMMARIES: dict[Metric, tuple[str, Callable[[NDArray[np.int64], Array], Array]]] = {
    Metric.PCC_MEAN: ("pearson", _mean),
    Metric.PCC_MEDIAN: ("pearson", _median),
    Metric.PCC_TOP50: ("pearson", _top),
    Metric.SPEARMAN_MEAN: ("spearman", _mean),
    Metric.PCC_DEPTH_REMOVED: ("pearson_depth_removed", _mean),
    Metric.SSIM: ("ssim", _mean),
    Metric.MSE: ("mse", _mean),
    Metric.MAE: ("mae", _mean),
    Metric.RMSE: ("rmse", _mean),
    Metric.SHARE_ABOVE: ("pearson", _share_above),
    Metric.VARIANCE_RATIO: ("variance_ratio", _median),
}


def interval(samples: Array) -> list[float]:
    """Return the central 95 % of bootstrapped values as [low, high]."""
    low, high = np.percentile(samples, _PERCENTILES)
    return [float(low), float(high)]


def level_with(samples: Samples, best: str, names: list[str]) -> list[str]:
    """Return those of `names` whose difference from `best`, paired by sample, has 0 inside its 95 % interval."""
    others = [name for name in names if name != best and name in samples]
    bounds = {name: interval(samples[best] - samples[name]) for name in others}
    return [name for name, (low, high) in bounds.items() if low <= 0 <= high]


def correlation_differences(truth: Array, ours: Array, theirs: Array, seed: int) -> tuple[Array, Array]:
    """Return the 95 % interval (gene,) and (gene,) of our PCC minus theirs, by bootstrap over sites.

    All three are (site, gene). Neighbouring spots resemble one another, so the intervals are rather too narrow. A
    correlation that is undefined counts as 0, as in the scores.
    """
    n_sites = len(truth)
    times = np.random.default_rng(seed).multinomial(n_sites, np.full(n_sites, 1 / n_sites), _N_SPOT_SAMPLES) / n_sites
    bounds = [
        np.percentile(_correlations(times, t, a) - _correlations(times, t, b), _PERCENTILES, axis=0)
        for t, a, b in zip(*map(_blocks, (truth, ours, theirs)), strict=True)
    ]
    low, high = np.concatenate(bounds, axis=1)
    return low, high


def _blocks(values: Array) -> Iterator[Array]:
    """Yield columns (site, gene) block by block, centred, so that products keep their digits."""
    for start in range(0, values.shape[1], GENES_PER_BLOCK):
        block = values[:, start : start + GENES_PER_BLOCK].astype(np.float64)
        yield block - block.mean(axis=0)


def _correlations(weights: Array, a: Array, b: Array) -> Array:
    """Return the correlation (sample, gene) of each column of `a` and `b` (site, gene) under each sample's weights."""
    mean_a, mean_b = weights @ a, weights @ b
    product = np.sqrt((weights @ a**2 - mean_a**2).clip(0) * (weights @ b**2 - mean_b**2).clip(0))
    smallest = 1e-9 * a.std(axis=0) * b.std(axis=0)
    covariance = weights @ (a * b) - mean_a * mean_b
    return np.divide(covariance, product, out=np.zeros_like(product), where=product > smallest)

"""The noise ceiling: how well any predictor could correlate with counts as noisy as these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.scoring.metrics import correlate

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
    whole, rest = _check(counts, depth)
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


def _check(counts: NDArray[np.number], depth: NDArray[np.number]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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

"""How well each gene is predicted, and what that comes to for a whole panel."""

from __future__ import annotations

from collections.abc import Sequence

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

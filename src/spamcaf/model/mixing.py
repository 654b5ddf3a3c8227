"""Stacking: weights of the network and of genes' own processes, learned on out-of-fold predictions.

References
----------
Wolpert 1992, Neural Networks 5:241 (stacked generalisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_SD = 0.3
"""Prior standard deviation of a weight around 0: on small sections the network gets little weight."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Stacking:
    """How to combine the predictions."""

    network_weight: Float64  # (1 + program,) share of the network, in [0, 1]; the rest is the Gaussian process
    gene_weight: Float64  # (own gene,) share of a gene's own process, in [0, 1]; the rest is what the programs say
    gene_noise: Float64  # (gene,) variance of a measurement that the combined prediction does not explain

    def combine(self, gp: Float64, network: Float64) -> Float64:
        """Return the weighted mean of program scores (site, program)."""
        return gp + self.network_weight * (network - gp)


def stacking_weights(truth: Float64, gp: Float64, network: Float64, folds: NDArray[np.integer]) -> Float64:
    """Return the weight (program,) of the network.

    The posterior mean of a regression of the Gaussian process' error on the difference between the two predictions,
    with a normal prior around 0, cut to [0, 1].

    Parameters
    ----------
    truth, gp, network : (spot, program) float64
        True scores, and the two predictions out of fold.
    folds : (spot,) int
    """
    # Centred within each fold: each has a network of its own, whose offset should not count.
    error = _centred_within(truth - gp, folds)
    change = _centred_within(network - gp, folds)
    prior = np.square(error).mean(axis=0) / PRIOR_SD**2
    return np.clip((error * change).sum(axis=0) / (np.square(change).sum(axis=0) + prior), 0, 1)


def _centred_within(values: Float64, folds: NDArray[np.integer]) -> Float64:
    centred = values.copy()
    for fold in np.unique(folds):
        centred[folds == fold] -= values[folds == fold].mean(axis=0)
    return centred


def gene_weights(truth: Float64, by_programs: Float64, by_gene: Float64, folds: NDArray[np.integer]) -> Float64:
    """Return the weight (own gene,) of each gene's own process beside the programs.

    The least-squares weight of each gene, cut to [0, 1], averaged with the mean over genes: one gene's weight is
    uncertain, and genes are alike.

    Parameters
    ----------
    truth, by_programs, by_gene : (spot, own gene) float64
        Expression, and the two predictions out of fold.
    folds : (spot,) int
    """
    error = _centred_within(truth - by_programs, folds)
    change = _centred_within(by_gene - by_programs, folds)
    spread = np.maximum(np.square(change).sum(axis=0), np.finfo(float).tiny)
    weights = np.clip((error * change).sum(axis=0) / spread, 0, 1)
    return (weights + weights.mean()) / 2 if len(weights) else weights


def gene_noise(truth: Float64, predicted: Float64, variance: Float64) -> Float64:
    """Return the variance (gene,) to add so that the mean predicted variance is the mean squared error out of fold.

    Parameters
    ----------
    truth, predicted, variance : (spot, gene) float64
        Expression, its prediction out of fold, and the variance that is predicted for it.
    """
    error = np.square(truth - predicted).mean(axis=0)
    return np.maximum(error - variance.mean(axis=0), 1e-3 * error)

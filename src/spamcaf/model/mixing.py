"""Stacking: the weight of the network beside the Gaussian process, per program, learned on out-of-fold predictions.

References
----------
Wolpert 1992, Neural Networks 5:241 (stacked generalisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.model.programs import Programs

PRIOR_SD = 0.3
"""Prior standard deviation of a weight around 0: on small sections the network gets little weight."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Stacking:
    """How to combine the two predictions."""

    network_weight: Float64  # (program,) share of the network, in [0, 1]; the rest is the Gaussian process
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


def gene_noise(expression: NDArray[np.floating], scores: Float64, variance: Float64, programs: Programs) -> Float64:
    """Return the variance (gene,) to add so that the mean predicted variance is the mean squared error out of fold.

    Parameters
    ----------
    expression : (spot, gene)
        Centred truth.
    scores, variance : (spot, program) float64
        Prediction out of fold.
    programs : Programs
    """
    error = np.square(expression - programs.decode(scores)).mean(axis=0)
    return np.maximum(error - programs.decode_variance(variance).mean(axis=0), 1e-3 * error)

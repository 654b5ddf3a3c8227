"""Stacking: how much to believe the network beside the Gaussian process, learned out of fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.model.programs import Programs

PRIOR_SD = 0.3
"""Before any evidence a weight is 0 give or take this: on small sections the network is believed little."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Stacking:
    """`weights` (program,) in [0, 1], the network's share, and `gene_noise` (gene,), the variance neither explains."""

    weights: Array
    gene_noise: Array

    def combine(self, gp: Array, network: Array) -> Array:
        """Return the mixed program scores (site, program)."""
        return gp + self.weights * (network - gp)


def stacking_weights(truth: Array, gp: Array, network: Array, folds: NDArray[np.integer]) -> Array:
    """Return per program how far to go from the process' to the network's scores, all (spot, program) out of fold.

    The posterior mean of a regression of what the process missed on what the network would change, with a prior
    around 0, cut to [0, 1]. All is centred within each fold first: each fold has a network of its own, and a fold's
    offset is no merit of either.
    """
    missed = _centred_within(truth - gp, folds)
    change = _centred_within(network - gp, folds)
    prior = np.square(missed).mean(axis=0) / PRIOR_SD**2
    return np.clip((missed * change).sum(axis=0) / (np.square(change).sum(axis=0) + prior), 0, 1)


def _centred_within(values: Array, folds: NDArray[np.integer]) -> Array:
    centred = values.copy()
    for fold in np.unique(folds):
        centred[folds == fold] -= values[folds == fold].mean(axis=0)
    return centred


def gene_noise(expression: NDArray[np.floating], scores: Array, variance: Array, programs: Programs) -> Array:
    """Return the variance (gene,) to add so that the mean predicted variance is the mean squared error out of fold.

    `expression` (spot, gene) is the centred truth, `scores` and `variance` (spot, program) the prediction out of fold.
    """
    error = np.square(expression - programs.decode(scores)).mean(axis=0)
    return np.maximum(error - programs.decode_variance(variance).mean(axis=0), 1e-3 * error)

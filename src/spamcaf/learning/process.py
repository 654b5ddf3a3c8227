"""The program Gaussian process: each gene program a sum of image and space kernels, with weights of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize

from spamcaf.learning.kernels import Kernels
from spamcaf.learning.pictures import Pictures

PRIOR_LOG_WEIGHT = np.log(0.1)
PRIOR_LOG_NOISE = np.log(0.5)
PRIOR_SD = 1.0
"""A weak prior on the logarithms of kernel weights and noise, in units of the program's own variance."""

WEIGHT_BOUNDS = (np.log(1e-5), np.log(10.0))
NOISE_BOUNDS = (np.log(1e-3), np.log(10.0))
"""The least noise stays well above the rounding of single-precision kernels."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hyperparameters:
    """Kernel weights (program, kernel) and noise (program,) in squared scores, noise at depth `reference_depth`."""

    weights: Array
    noise: Array
    reference_depth: float

    def covariance(self, gram: NDArray[np.float32], program: int) -> Array:
        """Return the signal's covariance (a, b) of a program from kernels (kernel, a, b)."""
        return np.tensordot(self.weights[program].astype(np.float32), gram, axes=1).astype(np.float64)

    def noise_of(self, depth: Array, program: int) -> Array:
        """Return the noise variance (spot,) of a program at spots of `depth` UMI."""
        return self.noise[program] * _noise_shape(depth, self.reference_depth)


def _noise_shape(depth: Array, reference_depth: float) -> Array:
    return np.sqrt(reference_depth / np.maximum(depth, 1.0))


def learn_hyperparameters(gram: NDArray[np.float32], scores: Array, depth: Array) -> Hyperparameters:
    """Learn kernel weights and noise by marginal likelihood with a weak prior, program by program.

    `gram` is (kernel, spot, spot), `scores` (spot, program), counted from their section's mean, `depth` (spot,) UMI.
    """
    reference_depth = float(np.median(np.maximum(depth, 1.0)))
    shape = _noise_shape(depth, reference_depth)
    variance = np.maximum(np.square(scores).mean(axis=0), np.finfo(float).tiny)
    flat = gram.reshape(len(gram), -1).astype(np.float64)
    found = np.stack([_maximise(flat, y, shape) for y in (scores / np.sqrt(variance)).T])
    absolute = np.exp(found) * variance[:, None]
    return Hyperparameters(absolute[:, :-1], absolute[:, -1], reference_depth)


def _maximise(flat: Array, y: Array, noise_shape: Array) -> Array:
    prior = np.append(np.full(len(flat), PRIOR_LOG_WEIGHT), PRIOR_LOG_NOISE)
    result = minimize(
        _loss,
        prior,
        args=(flat, y, noise_shape, prior),
        jac=True,
        method="L-BFGS-B",
        bounds=[WEIGHT_BOUNDS] * len(flat) + [NOISE_BOUNDS],
        options={"maxiter": 60, "ftol": 1e-6},
    )
    return result.x


def _loss(log_parameters: Array, flat: Array, y: Array, noise_shape: Array, prior: Array) -> tuple[float, Array]:
    """Return the negative log posterior of one program and its gradient by the logarithms of the parameters."""
    n = len(y)
    parameters = np.exp(log_parameters)
    covariance = (parameters[:-1] @ flat).reshape(n, n)
    covariance[np.diag_indices(n)] += parameters[-1] * noise_shape
    lower = cholesky(covariance, lower=True, check_finite=False)
    precision = _inverse(lower)
    alpha = precision @ y
    inner = precision - np.outer(alpha, alpha)
    gradient = np.append(flat @ inner.ravel(), noise_shape @ np.diagonal(inner)) * parameters / 2
    pull = (log_parameters - prior) / PRIOR_SD
    value = y @ alpha / 2 + np.log(np.diagonal(lower)).sum() + pull @ pull / 2
    return float(value), gradient + pull / PRIOR_SD


def _inverse(lower: Array) -> Array:
    """Return the inverse of a matrix from its lower Cholesky factor."""
    inverse, _ = lapack.dpotri(lower, lower=True)
    triangle = np.tril(inverse)
    return triangle + np.tril(triangle, -1).T


def out_of_fold(
    hyper: Hyperparameters, gram: NDArray[np.float32], scores: Array, depth: Array, folds: NDArray[np.integer]
) -> tuple[Array, Array]:
    """Predict each fold from the others in closed form: mean and variance (spot, program), hyperparameters fixed.

    Leaving out the spots f changes their residual to (P_ff)^-1 (P y)_f, P the inverse covariance (Rasmussen and
    Williams 2006, section 5.4.2, for groups).
    """
    mean, variance = np.empty_like(scores), np.empty_like(scores)
    for program, y in enumerate(scores.T):
        noise = hyper.noise_of(depth, program)
        covariance = hyper.covariance(gram, program)
        covariance[np.diag_indices_from(covariance)] += noise
        precision = _inverse(cholesky(covariance, lower=True))
        pulled = precision @ y
        for fold in np.unique(folds):
            held = np.flatnonzero(folds == fold)
            spread = np.linalg.inv(precision[np.ix_(held, held)])
            mean[held, program] = scores[held, program] - spread @ pulled[held]
            variance[held, program] = np.maximum(np.diagonal(spread) - noise[held], 0)
    return mean, variance


@dataclass(frozen=True)
class Process:
    """The process conditioned on a context of measured spots."""

    kernels: Kernels
    hyper: Hyperparameters
    alpha: Array  # (program, spot)
    lower: NDArray[np.float32]  # (program, spot, spot) Cholesky factors: single precision is enough for a variance

    @property
    def n_spots(self) -> int:
        """Spots that a site is conditioned on: bounds the size of a block of sites."""
        return self.alpha.shape[1]

    def at(self, pictures: Pictures, xy_um: Array) -> tuple[Array, Array]:
        """Return mean and variance (site, program) of the noiseless program scores at sites."""
        cross, diagonal = self.kernels.cross(pictures, xy_um)
        mean = np.empty((cross.shape[1], len(self.alpha)))
        variance = np.empty_like(mean)
        for program, lower in enumerate(self.lower):
            weights = self.hyper.weights[program].astype(np.float32)
            signal = np.tensordot(weights, cross, axes=1)  # (site, spot)
            mean[:, program] = signal @ self.alpha[program]
            explained = solve_triangular(lower, signal.T, lower=True, check_finite=False)
            variance[:, program] = weights @ diagonal - np.square(explained).sum(axis=0)
        return mean, np.maximum(variance, 0)


def condition(kernels: Kernels, hyper: Hyperparameters, scores: Array, depth: Array) -> Process:
    """Condition the process on the context of `kernels`, with centred `scores` (spot, program) and `depth`."""
    n, n_programs = scores.shape
    gram = kernels.gram()
    alpha, lowers = np.empty((n_programs, n)), np.empty((n_programs, n, n), np.float32)
    for program, y in enumerate(scores.T):
        covariance = hyper.covariance(gram, program)
        covariance[np.diag_indices(n)] += hyper.noise_of(depth, program)
        lower = cholesky(covariance, lower=True, overwrite_a=True)
        alpha[program] = cho_solve((lower, True), y)
        lowers[program] = lower
    return Process(kernels, hyper, alpha, lowers)

"""The Gaussian process of gene programs: kernels of image and space, marginal likelihood, prediction out of fold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from spamcaf.model.data import TARGET, ImageFeatures

IMAGE_KERNELS = ("target", "neighbourhood")
SPACE_KERNELS = ("matern_2", "matern_5", "exponential_3")

Float32Array = NDArray[np.float32]


def _matern_three_halves(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = np.sqrt(3.0) * distance
    return (1 + scaled) * np.exp(-scaled)


def space_kernels(pitches: NDArray[np.float64]) -> Float32Array:
    """Return (kernel, ...) by distance in pitches: Matern-3/2 of 2 and of 5 pitches, exponential of 3."""
    kernels = (_matern_three_halves(pitches / 2), _matern_three_halves(pitches / 5), np.exp(-pitches / 3))
    return np.stack(kernels).astype(np.float32)


def space_scale(xy_um: NDArray[np.float64], pitch_um: float) -> Float32Array:
    """Return what a space kernel (kernel,) is divided by, so that its mean diagonal over centred spots is 1."""
    grand_mean = space_kernels(cdist(xy_um, xy_um) / pitch_um).mean(axis=(1, 2))
    return np.maximum(1 - grand_mean, np.float32(1e-6))


def rms_norm(features: Float32Array) -> float:
    """Return the ONE number by which centred features are divided, so that dead channels stay dead."""
    return float(np.sqrt(np.square(features).sum(axis=1).mean())) or 1.0


@dataclass(frozen=True)
class _Space:
    """The space kernels centred on the context and scaled to mean diagonal 1."""

    xy_um: NDArray[np.float64]  # (spot, 2)
    pitch_um: float
    row_mean: Float32Array  # (kernel, spot)

    @classmethod
    def on(cls, xy_um: NDArray[np.float64], pitch_um: float) -> _Space:
        return cls(xy_um, pitch_um, space_kernels(cdist(xy_um, xy_um) / pitch_um).mean(axis=2))

    @property
    def grand_mean(self) -> Float32Array:
        return self.row_mean.mean(axis=1)  # (kernel,)

    @property
    def scale(self) -> Float32Array:
        return np.maximum(1 - self.grand_mean, np.float32(1e-6))

    def cross(self, xy_um: NDArray[np.float64]) -> tuple[Float32Array, Float32Array]:
        """Return kernels (kernel, site, spot) and their diagonal (kernel, site)."""
        raw = space_kernels(cdist(xy_um, self.xy_um) / self.pitch_um)
        site_mean = raw.mean(axis=2)
        grand = self.grand_mean[:, None]
        diagonal: Float32Array = (1 - 2 * site_mean + grand) / self.scale[:, None]
        raw -= site_mean[:, :, None]
        raw -= self.row_mean[:, None, :]
        raw += grand[:, :, None]
        raw /= self.scale[:, None, None]
        return raw, diagonal


@dataclass(frozen=True)
class Kernels:
    """The kernels of a context of spots, each centred by section and scaled to mean diagonal 1.

    ImageFeatures are shared between sections, space is not: its kernels are 0 between two sections. Without positions
    (`spaces` is empty) only the pictures speak.
    """

    target: Float32Array  # (spot, feature), scaled
    neighbourhood: Float32Array
    scales: tuple[float, float]
    spaces: dict[int, tuple[NDArray[np.intp], _Space]]  # section -> its rows and kernels

    @classmethod
    def on(
        cls,
        image_features: ImageFeatures,
        xy_um: NDArray[np.float64] | None,
        section: NDArray[np.int64],
        pitch_um: float,
    ) -> Kernels:
        """Return the kernels of spots with centred `image_features`, at `xy_um` (spot, 2) of their `section` (spot,).

        `xy_um` is None where places are unknown, or not to be looked at.
        """
        spaces: dict[int, tuple[NDArray[np.intp], _Space]] = {}
        if xy_um is not None:
            for number in np.unique(section).tolist():
                rows = np.flatnonzero(section == number)
                spaces[number] = (rows, _Space.on(xy_um[rows], pitch_um))
        scales = rms_norm(image_features.target), rms_norm(image_features.neighbourhood)
        return cls(image_features.target / scales[0], image_features.neighbourhood / scales[1], scales, spaces)

    def cross(self, image_features: ImageFeatures, xy_um: NDArray[np.float64]) -> tuple[Float32Array, Float32Array]:
        """Return the kernels (kernel, site, spot) of home sites with the context, and their diagonal (kernel, site).

        `image_features` are counted from the centre of the home section.
        """
        target, neighbourhood = image_features.target / self.scales[0], image_features.neighbourhood / self.scales[1]
        kernels: Float32Array = np.stack([target @ self.target.T, neighbourhood @ self.neighbourhood.T])
        lengths = np.stack([np.square(target).sum(axis=1), np.square(neighbourhood).sum(axis=1)])
        diagonal: Float32Array = (
            lengths + image_features.residual_norm2.T / np.array(self.scales, np.float32)[:, None] ** 2
        )
        if not self.spaces:
            return kernels, diagonal
        near: Float32Array = np.zeros((len(SPACE_KERNELS), *kernels.shape[1:]), np.float32)
        rows, space = self.spaces[TARGET]
        near[:, :, rows], space_diagonal = space.cross(xy_um)
        return np.concatenate([kernels, near], dtype=np.float32), np.concatenate([diagonal, space_diagonal])

    def gram(self) -> Float32Array:
        """Return the kernels (kernel, spot, spot) within the context."""
        image = np.stack([f @ f.T for f in (self.target, self.neighbourhood)])
        if not self.spaces:
            return image
        space = np.zeros((len(SPACE_KERNELS), *image.shape[1:]), np.float32)
        for rows, kernels in self.spaces.values():
            space[:, rows[:, None], rows] = kernels.cross(kernels.xy_um)[0]
        return np.concatenate([image, space])


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
    deviation = (log_parameters - prior) / PRIOR_SD
    value = y @ alpha / 2 + np.log(np.diagonal(lower)).sum() + deviation @ deviation / 2
    return float(value), gradient + deviation / PRIOR_SD


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
        weighted = precision @ y
        for fold in np.unique(folds):
            validation = np.flatnonzero(folds == fold)
            rms_norm = np.linalg.inv(precision[np.ix_(validation, validation)])
            mean[validation, program] = scores[validation, program] - rms_norm @ weighted[validation]
            variance[validation, program] = np.maximum(np.diagonal(rms_norm) - noise[validation], 0)
    return mean, variance


@dataclass(frozen=True)
class GaussianProcess:
    """The process conditioned on a context of measured spots."""

    kernels: Kernels
    hyper: Hyperparameters
    alpha: Array  # (program, spot)
    lower: NDArray[np.float32]  # (program, spot, spot) Cholesky factors: single precision is enough for a variance

    @property
    def n_spots(self) -> int:
        """Spots that a site is conditioned on: bounds the size of a block of sites."""
        return self.alpha.shape[1]

    def at(self, image_features: ImageFeatures, xy_um: Array) -> tuple[Array, Array]:
        """Return mean and variance (site, program) of the noiseless program scores at sites."""
        cross, diagonal = self.kernels.cross(image_features, xy_um)
        mean = np.empty((cross.shape[1], len(self.alpha)))
        variance = np.empty_like(mean)
        for program, lower in enumerate(self.lower):
            weights = self.hyper.weights[program].astype(np.float32)
            signal = np.tensordot(weights, cross, axes=1)  # (site, spot)
            mean[:, program] = signal @ self.alpha[program]
            explained = solve_triangular(lower, signal.T, lower=True, check_finite=False)
            variance[:, program] = weights @ diagonal - np.square(explained).sum(axis=0)
        return mean, np.maximum(variance, 0)


def condition(kernels: Kernels, hyper: Hyperparameters, scores: Array, depth: Array) -> GaussianProcess:
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
    return GaussianProcess(kernels, hyper, alpha, lowers)

"""The Gaussian process (GP) of gene programs: its kernels, marginal likelihood, and prediction, exactly.

Each program's scores are a sum of independent GPs: a linear kernel on the features of the tile, one on those of the
neighbourhood, and three stationary kernels on distance. Image kernels act across sections; kernels of space act within
a section only. All kernels are centred over a section's spots and scaled to a mean diagonal of 1, so that their weights
are variances in squared scores. For many spots see `vecchia`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, lapack
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from spamcaf.model.data import TARGET, ImageFeatures

IMAGE_KERNELS = ("target", "neighbourhood")
SPACE_KERNELS = ("matern_2", "matern_5", "exponential_3")
LENGTH_SCALES_PITCHES = (2.0, 5.0, 3.0)
"""Length scales of the space kernels in pitches: two Matern-3/2 and an exponential."""

PRIOR_LOG_WEIGHT = np.log(0.1)
PRIOR_LOG_NOISE = np.log(0.5)
PRIOR_SD = 1.0
"""A weak normal prior on the logarithms of kernel weights and noise, in units of the program's own variance."""
WEIGHT_BOUNDS = (np.log(1e-5), np.log(10.0))
NOISE_BOUNDS = (np.log(1e-3), np.log(10.0))
"""The least noise stays well above the rounding of single-precision kernels."""
LEAST_VARIANCE = 1e-6
"""Of a column of scores, squared scores: where all are equal, as of spots of one depth, nothing is divided by 0."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def _matern_three_halves(distance: Float64) -> Float64:
    scaled = np.sqrt(3.0) * distance
    return (1 + scaled) * np.exp(-scaled)


def space_kernels(pitches: Float64) -> Float32:
    """Return the kernels of space (kernel, ...) for distances in pitches, before centring and scaling."""
    short, long, exponential = LENGTH_SCALES_PITCHES
    kernels = np.empty((len(LENGTH_SCALES_PITCHES), *pitches.shape), np.float32)
    # one after the other: in double precision each is twice as large as all that is kept of it
    kernels[0] = _matern_three_halves(pitches / short)
    kernels[1] = _matern_three_halves(pitches / long)
    kernels[2] = np.exp(-pitches / exponential)
    return kernels


def space_scale(xy_um: Float64, pitch_um: float) -> Float32:
    """Return the divisor of each space kernel (kernel,) that gives it a mean diagonal of 1 over centred spots."""
    return _scale_of(space_kernels(cdist(xy_um, xy_um) / pitch_um).mean(axis=(1, 2)))


def _scale_of(grand_mean: Float32) -> Float32:
    return np.maximum(1 - grand_mean, np.float32(1e-6))


def rms_norm(features: Float32) -> float:
    """Return the ONE divisor of centred features (row, feature), their root mean squared length."""
    return float(np.sqrt(np.square(features).sum(axis=1).mean())) or 1.0


@dataclass(frozen=True)
class _SpaceKernels:
    """The space kernels of one section's spots, centred over them and scaled to a mean diagonal of 1."""

    xy_um: Float64  # (spot, 2)
    pitch_um: float
    row_mean: Float32  # (kernel, spot)

    @classmethod
    def of_spots(cls, xy_um: Float64, pitch_um: float) -> _SpaceKernels:
        return cls(xy_um, pitch_um, space_kernels(cdist(xy_um, xy_um) / pitch_um).mean(axis=2))

    def cross(self, xy_um: Float64) -> tuple[Float32, Float32]:
        """Return kernels (kernel, site, spot) and their diagonal (kernel, site)."""
        grand_mean = self.row_mean.mean(axis=1)  # (kernel,)
        scale, grand = _scale_of(grand_mean), grand_mean[:, None]
        raw = space_kernels(cdist(xy_um, self.xy_um) / self.pitch_um)
        site_mean = raw.mean(axis=2)
        diagonal: Float32 = (1 - 2 * site_mean + grand) / scale[:, None]
        # k(a, b) - mean_b k(a, .) - mean_a k(., b) + mean: the covariance of differences from the section's mean
        raw -= site_mean[:, :, None]
        raw -= self.row_mean[:, None, :]
        raw += grand[:, :, None]
        raw /= scale[:, None, None]
        return raw, diagonal


@dataclass(frozen=True)
class Kernels:
    """All kernels between a set of spots, the context, and sites."""

    target: Float32  # (spot, feature) centred image features of the context, divided by the first of `scales`
    neighbourhood: Float32  # (spot, feature) the same, by the second
    scales: tuple[float, float]
    spaces: dict[int, tuple[NDArray[np.intp], _SpaceKernels]]
    """By section: the rows of its spots in the context and their space kernels, 0 between two sections. Empty where
    positions are unknown or not to be used: then there are image kernels only."""

    @classmethod
    def of_spots(
        cls, image_features: ImageFeatures, xy_um: Float64 | None, section: NDArray[np.int64], pitch_um: float
    ) -> Kernels:
        """Return the kernels of a context.

        Parameters
        ----------
        image_features : ImageFeatures
            Of the spots, centred by section.
        xy_um : (spot, 2), or None to use no positions
        section : (spot,) int
        pitch_um : float
        """
        spaces: dict[int, tuple[NDArray[np.intp], _SpaceKernels]] = {}
        if xy_um is not None:
            for number in np.unique(section).tolist():
                rows = np.flatnonzero(section == number)
                spaces[number] = (rows, _SpaceKernels.of_spots(xy_um[rows], pitch_um))
        scales = rms_norm(image_features.target), rms_norm(image_features.neighbourhood)
        return cls(image_features.target / scales[0], image_features.neighbourhood / scales[1], scales, spaces)

    def cross(self, image_features: ImageFeatures, xy_um: Float64) -> tuple[Float32, Float32]:
        """Return the kernels between sites of the target section and the context.

        Parameters
        ----------
        image_features : ImageFeatures
            Of the sites, counted from the mean of the target section.
        xy_um : (site, 2)

        Returns
        -------
        (kernel, site, spot) float32, (kernel, site) float32
            The kernels, and their diagonal: each site with itself.
        """
        target = image_features.target / self.scales[0]
        neighbourhood = image_features.neighbourhood / self.scales[1]
        kernels: Float32 = np.stack([target @ self.target.T, neighbourhood @ self.neighbourhood.T])
        norms2 = np.stack([np.square(target).sum(axis=1), np.square(neighbourhood).sum(axis=1)])
        # What the PCA left out is orthogonal to all spots: it adds variance, and no covariance.
        diagonal: Float32 = norms2 + image_features.residual_norm2.T / np.array(self.scales, np.float32)[:, None] ** 2
        if not self.spaces:
            return kernels, diagonal
        space: Float32 = np.zeros((len(SPACE_KERNELS), *kernels.shape[1:]), np.float32)
        rows, space_kernels_of_target = self.spaces[TARGET]
        space[:, :, rows], space_diagonal = space_kernels_of_target.cross(xy_um)
        return np.concatenate([kernels, space], dtype=np.float32), np.concatenate([diagonal, space_diagonal])

    def gram(self) -> Float32:
        """Return the kernels (kernel, spot, spot) within the context."""
        n, n_image = len(self.target), len(IMAGE_KERNELS)
        kernels = np.zeros((n_image + len(SPACE_KERNELS) * bool(self.spaces), n, n), np.float32)
        for kernel, features in zip(kernels[:n_image], (self.target, self.neighbourhood), strict=True):
            np.matmul(features, features.T, out=kernel)
        for rows, space in self.spaces.values():
            kernels[n_image:, rows[:, None], rows] = space.cross(space.xy_um)[0]
        return kernels


@dataclass(frozen=True)
class Hyperparameters:
    """Kernel weights (covariance, kernel) and noise (covariance,), variances in squared scores.

    Noise holds at a depth of `reference_depth` UMI and falls with the square root of depth. Columns of scores may share
    a covariance: `covariance_of` (column,) tells which one each has. Where it is shared, its scale is arbitrary, so
    means are right and variances are not.
    """

    weights: Float64
    noise: Float64
    covariance_of: NDArray[np.int64]
    reference_depth: float

    def __len__(self) -> int:
        return len(self.noise)

    def columns(self, number: int) -> NDArray[np.intp]:
        """Return the columns of scores whose covariance is `number`."""
        return np.flatnonzero(self.covariance_of == number)

    def covariance(self, gram: Float32, number: int) -> Float64:
        """Return the signal's covariance (a, b) from kernels (kernel, a, b)."""
        return np.tensordot(self.weights[number].astype(np.float32), gram, axes=1).astype(np.float64)

    def noise_of(self, depth: Float64, number: int) -> Float64:
        """Return the noise variance (spot,) at spots of `depth` UMI."""
        return self.noise[number] * _noise_shape(depth, self.reference_depth)


def _noise_shape(depth: Float64, reference_depth: float) -> Float64:
    return np.sqrt(reference_depth / np.maximum(depth, 1.0))


def learn_hyperparameters(gram: Float32, scores: Float64, depth: Float64) -> Hyperparameters:
    """Maximise the marginal likelihood with a weak prior, program by program.

    Parameters
    ----------
    gram : (kernel, spot, spot) float32
    scores : (spot, program) float64
        Differences from their section's mean.
    depth : (spot,) float64
        Total UMI counts.
    """
    reference_depth = float(np.median(np.maximum(depth, 1.0)))
    shape = _noise_shape(depth, reference_depth)
    variance = np.maximum(np.square(scores).mean(axis=0), LEAST_VARIANCE)
    flat = gram.reshape(len(gram), -1).astype(np.float64)
    found = np.stack([_maximise(flat, y, shape) for y in (scores / np.sqrt(variance)).T])
    absolute = np.exp(found) * variance[:, None]
    return Hyperparameters(absolute[:, :-1], absolute[:, -1], np.arange(len(absolute)), reference_depth)


NOISE_RATIOS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Noise of a gene's own process, in units of its signal's variance: each gene takes the most likely one."""


def add_gene_covariances(hyper: Hyperparameters, gram: Float32, genes: Float64, depth: Float64) -> Hyperparameters:
    """Add covariances for single genes, as further columns of scores: one mixture of kernels at a few noise ratios.

    The mixture is the mean over programs of their relative kernel weights: fitting weights gene by gene was no better
    (mean PCC .2411 against .2414 on three sections and masks) and costs a factorisation per gene and step.

    Parameters
    ----------
    hyper : Hyperparameters
        Of the programs.
    gram : (kernel, spot, spot) float32
    genes : (spot, gene) float64
        Expression from its section's mean.
    depth : (spot,) float64
    """
    mixture = (hyper.weights / hyper.weights.sum(axis=1, keepdims=True)).mean(axis=0)
    # With noise of covariance r D, whitening by D leaves K + r I: one eigendecomposition serves all ratios r.
    shrink = 1 / np.sqrt(_noise_shape(depth, hyper.reference_depth))
    covariance = np.tensordot(mixture.astype(np.float32), gram, axes=1).astype(np.float64)
    values, vectors = np.linalg.eigh(covariance * np.outer(shrink, shrink))
    rotated = np.square(vectors.T @ (genes * shrink[:, None]))  # (spot, gene)
    spectra = np.maximum(values, 0)[:, None] + np.array(NOISE_RATIOS)  # (spot, ratio)
    scale = rotated.T @ (1 / spectra) / len(values)  # (gene, ratio) the most likely scale of each gene's variance
    scale = np.maximum(scale, np.finfo(float).tiny)
    chosen = (np.log(spectra).sum(axis=0) + len(values) * np.log(scale)).argmin(axis=1)
    used, which = np.unique(chosen, return_inverse=True)
    return Hyperparameters(
        np.vstack([hyper.weights, np.tile(mixture, (len(used), 1))]),
        np.append(hyper.noise, np.array(NOISE_RATIOS)[used]),
        np.append(hyper.covariance_of, len(hyper) + which),
        hyper.reference_depth,
    )


def _maximise(flat: Float64, y: Float64, noise_shape: Float64) -> Float64:
    prior = np.append(np.full(len(flat), PRIOR_LOG_WEIGHT), PRIOR_LOG_NOISE)
    bounds = [WEIGHT_BOUNDS] * len(flat) + [NOISE_BOUNDS]
    options, given = {"maxiter": 60, "ftol": 1e-4}, (flat, y, noise_shape, prior)  # 1e-6 changes no score
    return minimize(_loss, prior, args=given, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x


def _loss(
    log_parameters: Float64, flat: Float64, y: Float64, noise_shape: Float64, prior: Float64
) -> tuple[float, Float64]:
    """Return the negative log posterior of one program and its gradient by the logarithms of the parameters.

    Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, equations 2.30 and 5.9; `flat` holds the
    kernels as rows (kernel, spot x spot), so that each gradient is one product.
    """
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


def _inverse(lower: Float64) -> Float64:
    """Return the inverse of a matrix from its lower Cholesky factor."""
    triangle, _ = lapack.dpotri(lower, lower=True)  # above the diagonal it stays 0, as the factor is there
    inverse = triangle + triangle.T
    inverse[np.diag_indices_from(inverse)] = np.diagonal(triangle)
    return inverse


def out_of_fold(
    hyper: Hyperparameters, gram: Float32, scores: Float64, depth: Float64, folds: NDArray[np.integer]
) -> tuple[Float64, Float64]:
    """Predict each fold from the others in closed form, hyperparameters fixed.

    With P the inverse covariance of all spots, leaving out the spots f leaves them a residual of (P_ff)^-1 (P y)_f and
    a variance of (P_ff)^-1 (Rasmussen and Williams 2006, section 5.4.2, for groups): one inverse serves all folds.

    Returns
    -------
    (spot, column) float64, (spot, column) float64
        Mean, and variance without the noise.
    """
    mean, variance = np.empty_like(scores), np.empty_like(scores)
    for number in range(len(hyper)):
        columns, noise = hyper.columns(number), hyper.noise_of(depth, number)
        covariance = hyper.covariance(gram, number)
        covariance[np.diag_indices_from(covariance)] += noise
        precision = _inverse(cholesky(covariance, lower=True))
        weighted = precision @ scores[:, columns]
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            block, at = np.linalg.inv(precision[np.ix_(rows, rows)]), np.ix_(rows, columns)
            mean[at] = scores[at] - block @ weighted[rows]
            variance[at] = np.maximum(np.diagonal(block) - noise[rows], 0)[:, None]
    return mean, variance


@dataclass(frozen=True)
class GaussianProcess:
    """The process conditioned on measured spots."""

    kernels: Kernels
    hyper: Hyperparameters
    alpha: Float64  # (spot, column) inverse covariance times scores
    lower: Float32  # (covariance, spot (spot + 1) / 2) Cholesky factors, packed; single precision does for a variance

    @property
    def n_spots(self) -> int:
        """Numbers held per site and kernel: bounds the size of a chunk of sites."""
        return len(self.alpha)

    def at(self, image_features: ImageFeatures, xy_um: Float64) -> tuple[Float64, Float64]:
        """Return mean and variance (site, column) of the noiseless scores at sites of the target section."""
        cross, diagonal = self.kernels.cross(image_features, xy_um)
        mean = np.empty((cross.shape[1], self.alpha.shape[1]))
        variance = np.empty_like(mean)
        for number, lower in enumerate(self.lower):
            columns, weights = self.hyper.columns(number), self.hyper.weights[number].astype(np.float32)
            signal = np.tensordot(weights, cross, axes=1)  # (site, spot)
            mean[:, columns] = signal @ self.alpha[:, columns]
            explained = lapack.stfsm(1.0, lower, signal.T, uplo="L", overwrite_b=True)
            variance[:, columns] = (weights @ diagonal - np.square(explained).sum(axis=0))[:, None]
        return mean, np.maximum(variance, 0)


def condition(kernels: Kernels, hyper: Hyperparameters, scores: Float64, depth: Float64) -> GaussianProcess:
    """Condition the process on the context of `kernels`, with centred `scores` (spot, column) and `depth` (spot,)."""
    n, gram = len(scores), kernels.gram()
    alpha, lowers = np.empty_like(scores), np.empty((len(hyper), n * (n + 1) // 2), np.float32)
    for number in range(len(hyper)):
        columns, covariance = hyper.columns(number), hyper.covariance(gram, number)
        covariance[np.diag_indices(n)] += hyper.noise_of(depth, number)
        lower = cholesky(covariance, lower=True, overwrite_a=True)
        alpha[:, columns] = cho_solve((lower, True), scores[:, columns])
        lowers[number] = lapack.strttf(lower.astype(np.float32), uplo="L")[0]  # half the memory of the square
    return GaussianProcess(kernels, hyper, alpha, lowers)

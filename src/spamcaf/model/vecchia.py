"""The Gaussian process on many spots, where exact inference (cubic in the spots) is too slow.

The image kernels are linear, so they are kept exactly, as Bayesian linear regression on image features. The space
kernels and the noise are approximated after Vecchia: each spot's density is conditioned on a few nearest neighbours
among the spots before it in a random order. That makes the inverse covariance a product of sparse factors, and
multiplying by the factor (whitening) is one small linear system per spot, linear in the spots.

References
----------
Vecchia 1988, J R Stat Soc B 50:297; Katzfuss and Guinness 2021, Statistical Science 36:124 (random order, neighbours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from spamcaf.model.data import SECTION_OFFSET_UM, TARGET, ImageFeatures, ReferenceSpots
from spamcaf.model.gaussian_process import (
    IMAGE_KERNELS,
    SPACE_KERNELS,
    Hyperparameters,
    rms_norm,
    space_kernels,
    space_scale,
)
from spamcaf.sections.sites import row_chunks

N_CONDITIONING = 16
"""Earlier spots that a spot is conditioned on in whitening; 10 to 20 are customary."""
N_NEAREST = 32
"""Measured spots that a site is kriged from."""
GROWTH = 1.25
"""Neighbours are searched among the spots before the last multiple of this factor: few search trees are built."""
CHUNK = 4096
MAX_SCALE_SPOTS = 1000
"""Spots over which the mean of the space kernels is taken."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class _SpaceCovariance:
    """The covariance in space of one program's scores, as a function of distance."""

    weights: Float64  # (kernel,)
    pitch_um: float
    scale: NDArray[np.float32]  # (kernel,)

    def __call__(self, a_um: Float64, b_um: Float64) -> Float64:
        """Return the covariance (..., a, b) of positions (..., a, 2) and (..., b, 2)."""
        return self.of(_kernels(a_um, b_um, self.pitch_um))

    def of(self, kernels: NDArray[np.float32]) -> Float64:
        """Return the covariance (...) of kernels (kernel, ...), which all programs share."""
        return np.tensordot(self.weights / self.scale, kernels, axes=1)

    @property
    def variance(self) -> float:
        return float((self.weights / self.scale).sum())


def _kernels(a_um: Float64, b_um: Float64, pitch_um: float) -> NDArray[np.float32]:
    """Return the kernels of space (kernel, ..., a, b) between positions (..., a, 2) and (..., b, 2)."""
    return space_kernels(np.linalg.norm(a_um[..., :, None, :] - b_um[..., None, :, :], axis=-1) / pitch_um)


def _linear(weights: NDArray[np.floating], index: NDArray[np.intp], n_spots: int) -> csr_array:
    """Return the map (site, spot) that sums spots `index` (site, near) with `weights` (site, near)."""
    pointer = np.arange(len(index) + 1) * index.shape[1]
    return csr_array((weights.ravel(), index.ravel(), pointer), shape=(len(index), n_spots))


def conditioning_sets(xy_um: Float64, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each spot its nearest neighbours among the spots before it.

    Parameters
    ----------
    xy_um : (spot, 2)
    order : (spot,) int
        A permutation of the spots. Random, so that early spots cover the section thinly and carry the long range, late
        ones have close neighbours and carry the short range.

    Returns
    -------
    (spot, N_CONDITIONING) int
        Spot indices, -1 for none.
    """
    found = np.full((len(order), N_CONDITIONING), -1)
    start = 1
    while start < len(order):
        # One tree serves all spots from `start` to `stop`: those between them are not candidates of each other, a
        # small loss (at most a fifth of the candidates) against a tree per spot.
        stop = min(max(int(start * GROWTH), start + 1), len(order))
        n = min(N_CONDITIONING, start)
        tree = cKDTree(xy_um[order[:start]])
        found[order[start:stop], :n] = order[tree.query(xy_um[order[start:stop]], k=np.arange(1, n + 1))[1]]
        start = stop
    return found


def whitenings(
    xy_um: Float64, noises: Sequence[Float64], conditioning: NDArray[np.intp], spaces: Sequence[_SpaceCovariance]
) -> list[csr_array]:
    """Return for each covariance the map (spot, spot) that decorrelates columns of scores.

    What it gives are residuals given the conditioning set, in standard deviations. A covariance is that of `spaces`
    with `noises` (spot,) beside.
    """
    weights = np.empty((len(spaces), *conditioning.shape))
    scale = np.empty((len(spaces), len(xy_um)))
    for rows in row_chunks(len(xy_um), CHUNK):
        index, is_there = np.maximum(conditioning[rows], 0), conditioning[rows] >= 0
        near, pitch_um = xy_um[index], spaces[0].pitch_um
        near_kernels, across_kernels = _kernels(near, near, pitch_um), _kernels(xy_um[rows][:, None], near, pitch_um)
        for number, (space, noise) in enumerate(zip(spaces, noises, strict=True)):
            # Missing neighbours become independent unit-variance ones of covariance 0: they get a weight of exactly 0.
            inside = space.of(near_kernels) * (is_there[:, :, None] & is_there[:, None, :])
            inside += np.eye(index.shape[1]) * np.where(is_there, noise[index], 1.0)[:, :, None]
            across = space.of(across_kernels)[:, 0] * is_there
            kriging_weights = np.linalg.solve(inside, across[..., None])[..., 0]
            conditional_variance = space.variance + noise[rows] - (kriging_weights * across).sum(axis=1)
            scale[number, rows] = 1 / np.sqrt(conditional_variance)
            weights[number, rows] = -kriging_weights * scale[number, rows, None]
    index = np.column_stack([np.arange(len(xy_um)), np.maximum(conditioning, 0)])
    own = (np.column_stack([one, w]) for one, w in zip(scale, weights, strict=True))
    return [_linear(of_each, index, len(xy_um)) for of_each in own]


@dataclass(frozen=True)
class _Conditioned:
    """The columns of one covariance: the posterior of the regression on image features, and residuals at the spots."""

    columns: NDArray[np.intp]
    space: _SpaceCovariance
    image_weights: Float64  # (component,) square roots of the kernel weights
    mean: Float64  # (component, column) of the regression's coefficients
    lower: Float64  # (component, component) Cholesky factor of their posterior precision
    unseen_variance: Float64  # (image kernel,) prior variance per squared length that the PCA left out
    residual: Float64  # (spot, column)
    noise: Float64  # (spot,)

    def at(
        self,
        image: Float64,
        near_kernels: NDArray[np.float32],
        across_kernels: NDArray[np.float32],
        index: NDArray[np.intp],
    ) -> tuple[Float64, Float64]:
        """Return means (site, column) and variance (site,) at sites whose nearest spots are `index` (site, near).

        The regression gives the mean of the image, and the residual is kriged from the nearest spots, by the kernels
        of space between them (kernel, site, near, near), and between site and them (kernel, site, 1, near).
        """
        weighted = image * self.image_weights
        inside = self.space.of(near_kernels) + np.eye(index.shape[1]) * self.noise[index][:, :, None]
        across = self.space.of(across_kernels)[:, 0]
        kriging_weights = np.linalg.solve(inside, across[..., None])[..., 0]
        coefficient_variance = np.square(solve_triangular(self.lower, weighted.T, lower=True)).sum(axis=0)
        variance = coefficient_variance + self.space.variance - (kriging_weights * across).sum(axis=1)
        kriged = _linear(kriging_weights, index, len(self.residual)) @ self.residual
        return weighted @ self.mean + kriged, np.maximum(variance, 0)


@dataclass(frozen=True)
class VecchiaProcess:
    """The process conditioned on many measured spots."""

    scales: tuple[float, float]
    tree: cKDTree
    spots_um: Float64  # (spot, 2), sections apart
    covariances: tuple[_Conditioned, ...]

    @property
    def n_spots(self) -> int:
        """Numbers held per site and kernel: bounds the size of a chunk of sites."""
        return N_NEAREST * N_NEAREST

    def at(self, image_features: ImageFeatures, xy_um: Float64, section: int = TARGET) -> tuple[Float64, Float64]:
        """Return mean and variance (site, column) of the noiseless scores at sites of `section`."""
        mean = np.empty((len(xy_um), sum(len(part.columns) for part in self.covariances)))
        variance = np.empty_like(mean)
        for rows in row_chunks(len(xy_um), CHUNK):
            image = _side_by_side(image_features.at(rows), self.scales)
            apart_um = xy_um[rows] + section * SECTION_OFFSET_UM
            _, index = self.tree.query(apart_um, k=np.arange(1, min(N_NEAREST, self.tree.n) + 1))
            near, pitch_um = self.spots_um[index], self.covariances[0].space.pitch_um
            kernels = _kernels(near, near, pitch_um), _kernels(apart_um[:, None], near, pitch_um)
            for part in self.covariances:
                mean[rows, part.columns], explained = part.at(image, *kernels, index)
                explained = explained + image_features.residual_norm2[rows] @ part.unseen_variance
                variance[rows, part.columns] = explained[:, None]
        return mean, variance


def condition_vecchia(
    known: ReferenceSpots, pitch_um: float, hyper: Hyperparameters, *, use_positions: bool = True
) -> VecchiaProcess:
    """Condition the process on measured spots.

    Parameters
    ----------
    known : ReferenceSpots
    pitch_um : float
    hyper : Hyperparameters
    use_positions : bool
        False where positions tell nothing of the sites to predict: then only the image kernels act.
    """
    scales = rms_norm(known.image_features.target), rms_norm(known.image_features.neighbourhood)
    image = _side_by_side(known.image_features, scales)
    spots_um = known.xy_um if use_positions else np.zeros((len(known), 2))
    spots_um = spots_um + (known.section * SECTION_OFFSET_UM)[:, None]
    order = np.random.default_rng(len(known)).permutation(len(known))
    conditioning = conditioning_sets(spots_um, order) if use_positions else np.full((len(known), 1), -1)
    sample = order[known.section[order] == known.section[0]][:MAX_SCALE_SPOTS]
    scale = space_scale(spots_um[sample], pitch_um) if use_positions else np.ones(len(SPACE_KERNELS), np.float32)
    n_image, covariances = len(IMAGE_KERNELS), []
    by_space = [weights[n_image:] if use_positions else np.zeros(len(SPACE_KERNELS)) for weights in hyper.weights]
    spaces = [_SpaceCovariance(weights, pitch_um, scale) for weights in by_space]
    noises = [hyper.noise_of(known.depth, j) for j in range(len(hyper))]
    for j, whitening in enumerate(whitenings(spots_um, noises, conditioning, spaces)):
        weights, columns, space, noise = hyper.weights[j], hyper.columns(j), spaces[j], noises[j]
        y = known.scores[:, columns]
        roots = np.sqrt(np.repeat(weights[:n_image], image.shape[1] // n_image))
        # Generalised least squares: whitened features and scores, and a prior precision of 1 per coefficient.
        white_image, white_scores = whitening @ image, whitening @ y
        white_image *= roots
        precision = white_image.T @ white_image
        precision[np.diag_indices_from(precision)] += 1
        factor = cho_factor(precision, lower=True)
        mean = cho_solve(factor, white_image.T @ white_scores)
        residual = y - image @ (roots[:, None] * mean)
        unseen_variance = weights[:n_image] / np.square(scales)
        lower = np.tril(factor[0])
        covariances.append(_Conditioned(columns, space, roots, mean, lower, unseen_variance, residual, noise))
    return VecchiaProcess(scales, cKDTree(spots_um), spots_um, tuple(covariances))


def out_of_fold_vecchia(
    known: ReferenceSpots, pitch_um: float, hyper: Hyperparameters, folds: NDArray[np.integer], *, use_positions: bool
) -> tuple[Float64, Float64]:
    """Predict each fold from the others, hyperparameters fixed; returns mean and variance (spot, program)."""
    mean, variance = np.empty_like(known.scores), np.empty_like(known.scores)
    for fold in np.unique(folds):
        is_validation = folds == fold
        gp = condition_vecchia(known.at(~is_validation), pitch_um, hyper, use_positions=use_positions)
        for number in np.unique(known.section[is_validation]):
            rows = is_validation & (known.section == number)
            sites = known.at(rows)
            mean[rows], variance[rows] = gp.at(sites.image_features, sites.xy_um, int(number))
    return mean, variance


def _side_by_side(image_features: ImageFeatures, scales: tuple[float, float]) -> Float64:
    """Return (site, component) the components of both image kernels."""
    return np.hstack([image_features.target / scales[0], image_features.neighbourhood / scales[1]]).astype(np.float64)

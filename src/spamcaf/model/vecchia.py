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

from collections.abc import Iterator, Sequence
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

    def by_image(self, image: Float64) -> tuple[Float64, Float64]:
        """Return means (site, column) and variance (site,) by the regression on image features alone."""
        weighted = image * self.image_weights
        explained = solve_triangular(self.lower, weighted.T, lower=True)
        return weighted @ self.mean, np.square(explained).sum(axis=0)

    def by_space(
        self, near_kernels: NDArray[np.float32], across_kernels: NDArray[np.float32], index: NDArray[np.intp]
    ) -> tuple[Float64, Float64]:
        """Return what the nearest spots `index` (site, near) add to means and variance.

        The residual of the regression is kriged from them, by the kernels of space between them (kernel, site, near,
        near), and between site and them (kernel, site, 1, near).
        """
        inside = self.space.of(near_kernels) + np.eye(index.shape[1]) * self.noise[index][:, :, None]
        across = self.space.of(across_kernels)[:, 0]
        kriging_weights = np.linalg.solve(inside, across[..., None])[..., 0]
        kriged = _linear(kriging_weights, index, len(self.residual)) @ self.residual
        return kriged, self.space.variance - (kriging_weights * across).sum(axis=1)


@dataclass(frozen=True)
class VecchiaProcess:
    """The process conditioned on many measured spots."""

    scales: tuple[float, float]
    tree: cKDTree | None  # of the spots; None where positions are not used
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
            around = None if self.tree is None else self._around(xy_um[rows] + section * SECTION_OFFSET_UM)
            for part in self.covariances:
                mean_there, variance_there = part.by_image(image)
                if around is not None:
                    kriged, left = part.by_space(*around)
                    mean_there, variance_there = mean_there + kriged, np.maximum(variance_there + left, 0)
                mean[rows, part.columns] = mean_there
                unseen = image_features.residual_norm2[rows] @ part.unseen_variance
                variance[rows, part.columns] = (variance_there + unseen)[:, None]
        return mean, variance

    def _around(self, xy_um: Float64) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
        """Return the kernels among the nearest spots of sites, between sites and them, and which these spots are."""
        assert self.tree is not None
        _, index = self.tree.query(xy_um, k=np.arange(1, min(N_NEAREST, self.tree.n) + 1))
        near, pitch_um = self.spots_um[index], self.covariances[0].space.pitch_um
        return _kernels(near, near, pitch_um), _kernels(xy_um[:, None], near, pitch_um), index


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
    spots_um = known.xy_um + (known.section * SECTION_OFFSET_UM)[:, None]
    n_image, covariances = len(IMAGE_KERNELS), []
    noises = [hyper.noise_of(known.depth, j) for j in range(len(hyper))]
    columns_of = [known.scores[:, hyper.columns(j)] for j in range(len(hyper))]
    if use_positions:
        order = np.random.default_rng(len(known)).permutation(len(known))
        sample = order[known.section[order] == known.section[0]][:MAX_SCALE_SPOTS]
        scale = space_scale(spots_um[sample], pitch_um)
        spaces = [_SpaceCovariance(weights[n_image:], pitch_um, scale) for weights in hyper.weights]
        maps = whitenings(spots_um, noises, conditioning_sets(spots_um, order), spaces)
        equations = _equations_in_space(image, columns_of, maps)
    else:
        no_space = np.zeros(len(SPACE_KERNELS))
        spaces = [_SpaceCovariance(no_space, pitch_um, np.ones(len(no_space), np.float32))] * len(hyper)
        equations = _equations(image, columns_of, noises)
    for j, (gram, moments) in enumerate(equations):
        weights, columns, space, noise, y = hyper.weights[j], hyper.columns(j), spaces[j], noises[j], columns_of[j]
        roots = np.sqrt(np.repeat(weights[:n_image], image.shape[1] // n_image))
        # Generalised least squares: whitened features and scores, and a prior precision of 1 per coefficient.
        precision = gram * np.outer(roots, roots)
        precision[np.diag_indices_from(precision)] += 1
        factor = cho_factor(precision, lower=True)
        mean = cho_solve(factor, roots[:, None] * moments)
        residual = y - image @ (roots[:, None] * mean)
        unseen_variance = weights[:n_image] / np.square(scales)
        lower = np.tril(factor[0])
        covariances.append(_Conditioned(columns, space, roots, mean, lower, unseen_variance, residual, noise))
    return VecchiaProcess(scales, cKDTree(spots_um) if use_positions else None, spots_um, tuple(covariances))


def _equations_in_space(
    image: Float64, columns_of: Sequence[Float64], maps: Sequence[csr_array]
) -> Iterator[tuple[Float64, Float64]]:
    """Yield for each covariance the sums of products of whitened image features, and of these with the columns."""
    for columns, whitening in zip(columns_of, maps, strict=True):
        white = whitening @ image
        yield white.T @ white, white.T @ (whitening @ columns)


def _equations(
    image: Float64, columns_of: Sequence[Float64], noises: Sequence[Float64]
) -> Iterator[tuple[Float64, Float64]]:
    """Yield the same without kernels of space: noises differ by a factor only, and one sum serves all covariances."""
    first = image / np.sqrt(noises[0])[:, None]
    gram = first.T @ first
    for columns, noise in zip(columns_of, noises, strict=True):
        yield gram * (noises[0][0] / noise[0]), image.T @ (columns / noise[:, None])


def out_of_fold_vecchia(
    known: ReferenceSpots,
    pitch_um: float,
    hyper: Hyperparameters,
    folds: NDArray[np.integer],
    scored: NDArray[np.bool_] | None = None,
    *,
    use_positions: bool,
) -> tuple[Float64, Float64]:
    """Predict each fold from the others, hyperparameters fixed; returns mean and variance (spot, program).

    Of the folds that `scored` (spot,) holds, where it is given: the rows are then its spots.
    """
    scored = np.ones(len(known), bool) if scored is None else scored
    mean, variance = np.empty_like(known.scores), np.empty_like(known.scores)
    for fold in np.unique(folds[scored]):
        is_validation = folds == fold
        gp = condition_vecchia(known.at(~is_validation), pitch_um, hyper, use_positions=use_positions)
        for number in np.unique(known.section[is_validation]):
            rows = is_validation & (known.section == number)
            sites = known.at(rows)
            mean[rows], variance[rows] = gp.at(sites.image_features, sites.xy_um, int(number))
    return (mean, variance) if scored.all() else (mean[scored], variance[scored])


def _side_by_side(image_features: ImageFeatures, scales: tuple[float, float]) -> Float64:
    """Return (site, component) the components of both image kernels."""
    return np.hstack([image_features.target / scales[0], image_features.neighbourhood / scales[1]]).astype(np.float64)

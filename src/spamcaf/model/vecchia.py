"""The Gaussian process on many spots: image kernels exactly, space by Vecchia's approximation on nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial import cKDTree

from spamcaf.model.data import TARGET, ImageFeatures, ReferenceSpots
from spamcaf.model.gaussian_process import (
    IMAGE_KERNELS,
    SPACE_KERNELS,
    Hyperparameters,
    rms_norm,
    space_kernels,
    space_scale,
)

N_PREDECESSORS = 16
"""Spots that a spot is conditioned on while the pictures' weights are learned; 10 to 20 are customary."""
N_NEAREST = 32
"""Measured spots that a site is kriged from."""
APART_UM = 1e8
"""Sections are laid this far apart: then spots of another section are too far away to matter."""
GROWTH = 1.25
"""Predecessors are looked for among the spots that came before the last doubling of this factor."""
BLOCK = 4096
MAX_SCALE_SPOTS = 1000
"""Spots among which the mean similarity in space is taken."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Space:
    """Distances turned into the covariance of one program's scores."""

    weights: Array  # (kernel,)
    pitch_um: float
    scale: NDArray[np.float32]  # (kernel,)

    def __call__(self, a_um: Array, b_um: Array) -> Array:
        """Return the covariance (..., a, b) of places (..., a, 2) and (..., b, 2)."""
        pitches = np.linalg.norm(a_um[..., :, None, :] - b_um[..., None, :, :], axis=-1) / self.pitch_um
        return np.tensordot(self.weights / self.scale, space_kernels(pitches), axes=1)

    @property
    def variance(self) -> float:
        return float((self.weights / self.scale).sum())


def conditioning_sets(xy_um: Array, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each spot, by its place in `order`, its nearest predecessors (spot, predecessor); -1 for none."""
    found = np.full((len(order), N_PREDECESSORS), -1)
    start = 1
    while start < len(order):
        stop = min(max(int(start * GROWTH), start + 1), len(order))
        n = min(N_PREDECESSORS, start)
        tree = cKDTree(xy_um[order[:start]])
        found[order[start:stop], :n] = order[tree.query(xy_um[order[start:stop]], k=np.arange(1, n + 1))[1]]
        start = stop
    return found


def _whiten(columns: Array, xy_um: Array, noise: Array, conditioning: NDArray[np.intp], space: _Space) -> Array:
    """Return `columns` (spot, column) decorrelated: what its predecessors do not tell of each spot, in units of it."""
    white = np.empty_like(columns)
    for rows in _blocks(len(columns)):
        index, is_there = np.maximum(conditioning[rows], 0), conditioning[rows] >= 0
        near = xy_um[index]
        inside = space(near, near) * (is_there[:, :, None] & is_there[:, None, :])
        inside += np.eye(index.shape[1]) * np.where(is_there, noise[index], 1.0)[:, :, None]
        across = space(xy_um[rows][:, None], near)[:, 0] * is_there
        kriging_weights = np.linalg.solve(inside, across[..., None])[..., 0]
        left = space.variance + noise[rows] - (kriging_weights * across).sum(axis=1)
        conditional_mean = np.einsum("sn,snc->sc", kriging_weights, columns[index])
        white[rows] = (columns[rows] - conditional_mean) / np.sqrt(left)[:, None]
    return white


@dataclass(frozen=True)
class _Program:
    """One program, conditioned: the posterior of the pictures' weights, and what they leave over at the spots."""

    space: _Space
    image_weights: Array  # (component,) square roots of the kernel weights
    mean: Array  # (component,)
    lower: Array  # (component, component) Cholesky factor of the posterior precision
    unseen_variance: Array  # (image kernel,) prior variance per squared length that the basis left out
    residual: Array  # (spot,)
    noise: Array  # (spot,)

    def at(self, image: Array, xy_um: Array, spots_um: Array, index: NDArray[np.intp]) -> tuple[Array, Array]:
        """Return mean and variance (site,) at sites whose nearest spots are `index` (site, near)."""
        seen = image * self.image_weights
        near = spots_um[index]
        inside = self.space(near, near) + np.eye(index.shape[1]) * self.noise[index][:, :, None]
        across = self.space(xy_um[:, None], near)[:, 0]
        kriging_weights = np.linalg.solve(inside, across[..., None])[..., 0]
        spread_of_weights = np.square(solve_triangular(self.lower, seen.T, lower=True)).sum(axis=0)
        variance = spread_of_weights + self.space.variance - (kriging_weights * across).sum(axis=1)
        return seen @ self.mean + (kriging_weights * self.residual[index]).sum(axis=1), np.maximum(variance, 0)


@dataclass(frozen=True)
class VecchiaProcess:
    """The process conditioned on a context of many measured spots."""

    scales: tuple[float, float]
    tree: cKDTree
    spots_um: Array  # (spot, 2), sections apart
    programs: tuple[_Program, ...]

    @property
    def n_spots(self) -> int:
        """Spots that a site is conditioned on: bounds the size of a block of sites."""
        return N_NEAREST * N_NEAREST

    def at(self, image_features: ImageFeatures, xy_um: Array, section: int = TARGET) -> tuple[Array, Array]:
        """Return mean and variance (site, program) of the noiseless program scores at sites of `section`."""
        mean = np.empty((len(xy_um), len(self.programs)))
        variance = np.empty_like(mean)
        for rows in _blocks(len(xy_um)):
            image = _image(image_features.at(rows), self.scales)
            place = xy_um[rows] + section * APART_UM
            _, index = self.tree.query(place, k=np.arange(1, min(N_NEAREST, self.tree.n) + 1))
            for j, program in enumerate(self.programs):
                mean[rows, j], variance[rows, j] = program.at(image, place, self.spots_um, index)
                variance[rows, j] += image_features.residual_norm2[rows] @ program.unseen_variance
        return mean, variance


def condition_vecchia(
    known: ReferenceSpots, pitch_um: float, hyper: Hyperparameters, *, has_positions: bool = True
) -> VecchiaProcess:
    """Condition the process on what is known of spots; their positions count where `has_positions`."""
    scales = rms_norm(known.image_features.target), rms_norm(known.image_features.neighbourhood)
    image = _image(known.image_features, scales)
    places = (known.xy_um if has_positions else np.zeros((len(known), 2))) + (known.section * APART_UM)[:, None]
    order = np.random.default_rng(len(known)).permutation(len(known))
    conditioning = conditioning_sets(places, order) if has_positions else np.full((len(known), 1), -1)
    sample = order[known.section[order] == known.section[0]][:MAX_SCALE_SPOTS]
    scale = space_scale(places[sample], pitch_um) if has_positions else np.ones(len(SPACE_KERNELS), np.float32)
    programs = []
    for j, y in enumerate(known.scores.T):
        weights = hyper.weights[j]
        n_image = len(IMAGE_KERNELS)
        space = _Space(weights[n_image:] if has_positions else np.zeros(len(SPACE_KERNELS)), pitch_um, scale)
        roots = np.sqrt(np.repeat(weights[:n_image], image.shape[1] // n_image))
        noise = hyper.noise_of(known.depth, j)
        white = _whiten(np.column_stack([image * roots, y]), places, noise, conditioning, space)
        precision = white[:, :-1].T @ white[:, :-1]
        precision[np.diag_indices_from(precision)] += 1
        factor = cho_factor(precision, lower=True)
        mean = cho_solve(factor, white[:, :-1].T @ white[:, -1])
        residual = y - (image * roots) @ mean
        unseen_variance = weights[:n_image] / np.square(scales)
        programs.append(_Program(space, roots, mean, np.tril(factor[0]), unseen_variance, residual, noise))
    return VecchiaProcess(scales, cKDTree(places), places, tuple(programs))


def out_of_fold_vecchia(
    known: ReferenceSpots,
    pitch_um: float,
    hyper: Hyperparameters,
    folds: NDArray[np.integer],
    *,
    has_positions: bool = True,
) -> tuple[Array, Array]:
    """Predict each fold from the others: mean and variance (spot, program), hyperparameters fixed."""
    mean, variance = np.empty_like(known.scores), np.empty_like(known.scores)
    for fold in np.unique(folds):
        is_validation = folds == fold
        gp = condition_vecchia(known.at(~is_validation), pitch_um, hyper, has_positions=has_positions)
        for number in np.unique(known.section[is_validation]):
            rows = is_validation & (known.section == number)
            asked = known.at(rows)
            mean[rows], variance[rows] = gp.at(asked.image_features, asked.xy_um, int(number))
    return mean, variance


def _image(image_features: ImageFeatures, scales: tuple[float, float]) -> Array:
    """Return (place, component) the components of both image kernels side by side."""
    return np.hstack([image_features.target / scales[0], image_features.neighbourhood / scales[1]]).astype(np.float64)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))

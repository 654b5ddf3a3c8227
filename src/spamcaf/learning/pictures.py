"""What the image kernels see of places, in few dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.sections.sites import Sites

N_COMPONENTS = 256
"""Directions kept of a backbone's features; fewer spots than half of it span them all."""
MAX_ROWS = 8192
"""Rows that the directions are learned from."""

HOME = 0
"""The number of the section whose sites are predicted; others, if any, are numbered from 1."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """What the image kernels see of places: the tile there, and the mean of the 3 x 3 tiles, both (site, feature).

    `outside` (site, 2) is the squared length of what a basis left out of the two, 0 for whole features.
    """

    target: Array
    surround: Array
    outside: Array

    @classmethod
    def of(cls, sites: Sites) -> Pictures:
        """Return the pictures of `sites`."""
        target, surround = np.asarray(sites.target, np.float32), sites.neighbours.mean(axis=1, dtype=np.float32)
        return cls(target, surround, np.zeros((len(sites), 2), np.float32))

    @classmethod
    def stack(cls, parts: list[Pictures]) -> Pictures:
        """Return all places of `parts`, one after the other."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("target", "surround", "outside")))

    def centre(self) -> Pictures:
        """Return the means over places: target and surround (feature,)."""
        return Pictures(self.target.mean(axis=0), self.surround.mean(axis=0), np.zeros(2, np.float32))

    def minus(self, centre: Pictures) -> Pictures:
        """Return the pictures counted from `centre`."""
        return Pictures(self.target - centre.target, self.surround - centre.surround, self.outside)

    def at(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Pictures:
        """Return the pictures of some places."""
        return Pictures(self.target[rows], self.surround[rows], self.outside[rows])


@dataclass(frozen=True)
class Basis:
    """The main directions of centred pictures: `axes` (component, feature), orthonormal."""

    axes: Array

    def __call__(self, pictures: Pictures) -> Pictures:
        """Return the components of centred pictures of whole features."""
        target, surround = pictures.target @ self.axes.T, pictures.surround @ self.axes.T
        outside = np.stack(
            [_lost(pictures.target, target), _lost(pictures.surround, surround)],
            axis=1,
        )
        return Pictures(target, surround, outside)


def _lost(whole: Array, kept: Array) -> Array:
    return np.maximum(np.square(whole).sum(axis=1) - np.square(kept).sum(axis=1), 0)


def learn_basis(pictures: Pictures) -> Basis:
    """Learn the main directions of centred pictures, tiles and surroundings together.

    A linear kernel sees no more of a place than what it shares with the spots, so nothing is lost where the spots span
    fewer directions.
    """
    from sklearn.decomposition import PCA

    both = np.concatenate([pictures.target, pictures.surround])
    rows = np.random.default_rng(len(both)).permutation(len(both))[:MAX_ROWS]
    n_kept = min(N_COMPONENTS, len(rows), both.shape[1])
    pca = PCA(n_kept, svd_solver="covariance_eigh").fit(both[rows].astype(np.float64))
    return Basis(pca.components_.astype(np.float32))

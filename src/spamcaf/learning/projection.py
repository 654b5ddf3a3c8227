"""A fixed projection of backbone features onto their main directions: what the network sees of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """Principal components: `mean` (feature,), `axes` (component, feature) orthonormal, and ONE scale for all.

    One number, because scaling each feature or component by its own spread lets nearly dead channels explode.
    """

    mean: Array
    axes: Array
    scale: float

    def __call__(self, features: Array) -> Array:
        """Return components (..., component) of features (..., feature), of mean variance 1 where it was learned."""
        return ((features - self.mean) @ self.axes.T / np.float32(self.scale)).astype(np.float32)


def learn_projection(features: Array, n_components: int) -> Projection:
    """Learn at most `n_components` principal components of `features` (row, feature)."""
    from sklearn.decomposition import PCA

    n_kept = min(n_components, *features.shape)
    pca = PCA(n_kept, svd_solver="covariance_eigh").fit(np.asarray(features, np.float64))
    scale = float(np.sqrt(pca.explained_variance_.mean()))
    return Projection(pca.mean_.astype(np.float32), pca.components_.astype(np.float32), scale or 1.0)

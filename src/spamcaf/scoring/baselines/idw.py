"""Baseline: inverse-distance weighting of the eight nearest measured spots, power 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from spamcaf.sections.sites import Measured, SiteSource

_N_NEIGHBOURS = 8
_POWER = 2
_NEAREST_PITCHES = 1e-3
"""Distances below this share of a pitch count as this, so that a site on a spot takes the spot's own value."""


def predict(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32 by inverse-distance weighting. `seed` belongs to the common signature."""
    n_neighbours = min(_N_NEIGHBOURS, len(measured))
    ranks = list(range(1, n_neighbours + 1))  # a list keeps scipy's answer two-dimensional for one neighbour
    distance_um, index = cKDTree(measured.sites.xy_um).query(sites.xy_um, k=ranks)
    weight = np.maximum(distance_um / pitch_um, _NEAREST_PITCHES) ** -_POWER  # (site, neighbour)
    weight /= weight.sum(axis=1, keepdims=True)
    pointer = np.arange(len(sites) + 1) * n_neighbours
    shares = csr_array((weight.ravel(), index.ravel(), pointer), shape=(len(sites), len(measured)))
    return np.asarray(shares @ measured.expression, dtype=np.float32)

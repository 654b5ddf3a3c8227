"""Which measured spots a site may look at: the nearest, and in training a random part of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor


def nearest(xy_um: NDArray[np.float64], context_um: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Return the indices (site, n) of the nearest of `context_um` (spot, 2) to each of `xy_um` (site, 2), in order."""
    if n == 0:
        return np.empty((len(xy_um), 0), np.intp)
    _, index = cKDTree(context_um).query(xy_um, k=np.arange(1, min(n, len(context_um)) + 1))
    return index


def nearest_others(xy_um: NDArray[np.float64], allowed: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return for each spot (spot, 2) the indices (spot, n) of the nearest `allowed` spots, never the spot itself."""
    n = min(n, len(allowed) - 1)
    index = allowed[nearest(xy_um, xy_um[allowed], n + 1)]
    is_self = index == np.arange(len(xy_um))[:, None]
    # A spot that is not allowed, or shares its place with others, is not found: then the farthest one goes.
    is_self[~is_self.any(axis=1), -1] = True
    return index[~is_self].reshape(len(xy_um), n)


def nearest_within(
    xy_um: NDArray[np.float64], section: NDArray[np.int64], allowed: NDArray[np.intp], n: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return `nearest_others` (spot, n) in each spot's own `section` (spot,), and which of them are of it.

    Where a section has fewer than `n` allowed spots, spots of others fill the rows, marked as such.
    """
    # far beyond any section, yet small enough for positions to keep their digits
    apart = xy_um + (section * 1e8)[:, None]
    index = nearest_others(apart, allowed, n)
    return index, section[index] == section[:, None]


def first_seen(candidates: Tensor, seen: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Choose the first `n` candidates of each site that are seen.

    `candidates` (site, candidate) are spot indices by distance, `seen` (site, candidate) bool. Returns indices (site,
    n) and whether each is seen; where fewer are, the rest is not.
    """
    order = torch.argsort((~seen).to(torch.uint8), dim=1, stable=True)[:, :n]
    return candidates.gather(1, order), seen.gather(1, order)

"""Moran's I: whether a predicted map is as patchy, or as smooth, as the measured one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.scoring.metrics import is_constant

NEIGHBOURS = {"hexagonal": 6, "square": 4}
"""Neighbours of a spot on each lattice."""


def morans_i(values: NDArray[np.floating], xy_um: NDArray[np.float64], n_neighbours: int) -> NDArray[np.float64]:
    """Return Moran's I of each column of `values` (site, gene), NaN where it is constant.

    Each site's weight is shared equally by its `n_neighbours` nearest sites among `xy_um` (site, 2).
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    n_sites = len(xy_um)
    if n_sites <= n_neighbours:
        raise ValueError(
            f"Moran's I with {n_neighbours} neighbours needs more than {n_neighbours} sites, found {n_sites}."
        )
    _, found = cKDTree(xy_um).query(xy_um, k=n_neighbours + 1)
    # not simply found[:, 1:]: of two sites at one place either may come first
    keep = found != np.arange(n_sites)[:, None]
    keep[keep.all(axis=1), -1] = False
    pointer = np.arange(n_sites + 1) * n_neighbours
    weights = csr_array((np.full(keep.sum(), 1 / n_neighbours), found[keep], pointer), shape=(n_sites, n_sites))
    centred = values - values.mean(axis=0, dtype=np.float64)
    spread = (centred**2).sum(axis=0)
    product = (centred * (weights @ centred)).sum(axis=0)
    return np.divide(product, spread, out=np.full(len(spread), np.nan), where=~is_constant(values))


def moran_ratio(
    truth: NDArray[np.floating], prediction: NDArray[np.floating], xy_um: NDArray[np.float64], n_neighbours: int
) -> float | None:
    """Return mean Moran's I of the prediction / that of the truth, over genes where both are defined.

    Above 1 the prediction is smoother than the measurement. None where no gene is defined or the truth shows no
    positive autocorrelation to compare with. A ratio of means, for the ratio of one noisy gene may be anything.
    """
    true_i, predicted_i = (morans_i(values, xy_um, n_neighbours) for values in (truth, prediction))
    defined = np.isfinite(true_i) & np.isfinite(predicted_i)
    if not defined.any() or true_i[defined].mean() <= 0:
        return None
    return float(predicted_i[defined].mean() / true_i[defined].mean())

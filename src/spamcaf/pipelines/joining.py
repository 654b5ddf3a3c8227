"""Joins by id: what is known of spots and sites, brought into one order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.names import FACTS, SPATIAL, Fact, Obs
from spamcaf.sections.expression import DEPTH
from spamcaf.sections.grid import SITE_ID, SUB_INDEX, X_PX, Y_PX
from spamcaf.sections.places import Measured, Sites

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.histology.features import Features


def mpp_of(section: AnnData) -> float:
    """Return micrometres per full-resolution pixel of a checked section."""
    return float(section.uns[FACTS][Fact.MPP])


def pitch_um_of(section: AnnData) -> float:
    """Return the distance of neighbouring spots in micrometres."""
    return float(section.uns[FACTS][Fact.PITCH_UM])


def sites_of(ids: list[str], xy_um: NDArray[np.float64], features: Features) -> Sites:
    """Return the sites `ids` at `xy_um` with their features."""
    windows = features.windows[features.rows(ids)]
    return Sites(xy_um, features.target_of(windows), windows)


def measured_spots(expression: AnnData, features: Features, barcodes: list[str]) -> Measured:
    """Return the spots `barcodes` with features, expression and depth, in that order."""
    features.require_sites(expression.obs_names.tolist(), np.asarray(expression.obsm[SPATIAL], np.float64))
    spots = expression[barcodes]
    xy_um = np.asarray(spots.obsm[SPATIAL], np.float64) * mpp_of(expression)
    return Measured(sites_of(barcodes, xy_um, features), np.asarray(spots.X), spots.obs[DEPTH].to_numpy(np.float64))


def grid_windows(
    grid: pd.DataFrame, spot_features: Features, grid_features: Features
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return windows (site, 9, feature) and padded pixels of a grid; a site that is a spot has the spot's."""
    is_spot = (grid[SUB_INDEX] == 0).to_numpy()
    rows = spot_features.rows(grid.loc[is_spot, Obs.PARENT].tolist())
    windows = np.empty((len(grid), *spot_features.windows.shape[1:]), np.float32)
    n_padded = np.empty(len(grid), np.int64)
    windows[is_spot], n_padded[is_spot] = spot_features.windows[rows], spot_features.n_px_padded[rows]
    if not is_spot.all():
        between = grid.loc[~is_spot]
        grid_features.require_sites(between[SITE_ID].tolist(), between[[X_PX, Y_PX]].to_numpy(np.float64))
        rows = grid_features.rows(between[SITE_ID].tolist())
        windows[~is_spot], n_padded[~is_spot] = grid_features.windows[rows], grid_features.n_px_padded[rows]
    return windows, n_padded

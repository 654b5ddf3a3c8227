"""Joins by id: what is known of spots and sites, brought into one order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.histology.features import Features
from spamcaf.names import FACTS, SPATIAL, Fact, Obs
from spamcaf.sections.expression import DEPTH
from spamcaf.sections.grid import SITE_ID, SUB_INDEX, X_PX, Y_PX
from spamcaf.sections.places import Measured, Sites

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


def mpp_of(section: AnnData) -> float:
    """Return micrometres per full-resolution pixel of a checked section."""
    return float(section.uns[FACTS][Fact.MPP])


def pitch_um_of(section: AnnData) -> float:
    """Return the distance of neighbouring spots in micrometres."""
    return float(section.uns[FACTS][Fact.PITCH_UM])


def sites_of(ids: list[str], xy_um: NDArray[np.float64], features: Features) -> Sites:
    """Return the sites `ids` at `xy_um` with their features."""
    rows = features.rows(ids)
    windows, whole = features.windows[rows], features.whole
    return Sites(xy_um, features.target_of(windows), windows, None if whole is None else whole[rows])


def measured_spots(expression: AnnData, features: Features, barcodes: list[str]) -> Measured:
    """Return the spots `barcodes` with features, expression and depth, in that order."""
    features.require_sites(expression.obs_names.tolist(), np.asarray(expression.obsm[SPATIAL], np.float64))
    spots = expression[barcodes]
    xy_um = np.asarray(spots.obsm[SPATIAL], np.float64) * mpp_of(expression)
    return Measured(sites_of(barcodes, xy_um, features), np.asarray(spots.X), spots.obs[DEPTH].to_numpy(np.float64))


def grid_sites(
    grid: pd.DataFrame, spot_features: Features, grid_features: Features, mpp: float
) -> tuple[Sites, NDArray[np.int64]]:
    """Return the sites of a grid and their padded pixels; a site that is a spot has the spot's features."""
    is_spot = (grid[SUB_INDEX] == 0).to_numpy()
    parts = [(is_spot, spot_features, spot_features.rows(grid.loc[is_spot, Obs.PARENT].tolist()))]
    if not is_spot.all():
        between = grid.loc[~is_spot]
        grid_features.require_sites(between[SITE_ID].tolist(), between[[X_PX, Y_PX]].to_numpy(np.float64))
        parts.append((~is_spot, grid_features, grid_features.rows(between[SITE_ID].tolist())))
    windows = _joined(len(grid), [(where, f.windows, rows) for where, f, rows in parts])
    n_padded = _joined(len(grid), [(where, f.n_px_padded, rows) for where, f, rows in parts])
    with_whole = [(where, f.whole, rows) for where, f, rows in parts if f.whole is not None]
    whole = _joined(len(grid), with_whole) if len(with_whole) == len(parts) else None
    return Sites(grid[[X_PX, Y_PX]].to_numpy() * mpp, Features.target_of(windows), windows, whole), n_padded


def _joined(n: int, parts: list[tuple[NDArray[np.bool_], NDArray[Any], NDArray[np.intp]]]) -> NDArray[Any]:
    """Return `n` rows: where a part's mask says so, the rows of its array."""
    _, first, _ = parts[0]
    joined = np.empty((n, *first.shape[1:]), first.dtype)
    for where, values, rows in parts:
        joined[where] = values[rows]
    return joined

from __future__ import annotations

from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest
import squidpy as sq
from anndata import AnnData


def test_scatter_draws_sub_spots_where_they_are(prediction: AnnData, tmp_path: Path) -> None:
    prediction.write_h5ad(tmp_path / "prediction.h5ad")
    stored = anndata.read_h5ad(tmp_path / "prediction.h5ad")
    axes = sq.pl.spatial_scatter(stored, color=["Mbp", "origin"], library_key="library_id", return_ax=True)
    first = np.ravel(axes)[0]
    picture = first.images[0].get_array()
    hires = stored.uns["spatial"]["block_A__1_"]["images"]["hires"]
    assert picture.shape[:2] == hires.shape[:2]
    discs = first.collections[0]
    low, high = discs.get_datalim(first.transData).get_points()
    assert 0 < low[0] < high[0] < hires.shape[1]
    assert 0 < low[1] < high[1] < hires.shape[0]
    plt.close("all")


def test_neighbours_of_a_sub_spot_are_half_a_pitch_away(prediction: AnnData) -> None:
    sq.gr.spatial_neighbors(prediction, coord_type="generic", n_neighs=6)
    distances = prediction.obsp["spatial_distances"].data
    assert np.median(distances) == pytest.approx(50, abs=0.01)


def test_a_map_that_is_smooth_has_spatial_autocorrelation(prediction: AnnData) -> None:
    sq.gr.spatial_neighbors(prediction, coord_type="generic", n_neighs=6)
    sq.gr.spatial_autocorr(prediction, mode="moran", genes=["Mbp", "Plp1"], n_perms=None)
    assert (prediction.uns["moranI"]["I"] > 0.9).all()

"""A real Visium crop: its lattice and its scale factors agree on the size of a pixel."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy.spatial import cKDTree

from spamcaf.sections.grid import lay_grid
from spamcaf.sections.lattice import Lattice, fit_lattice

REAL = os.environ.get("SPAMCAF_REAL_DATA")
pytestmark = pytest.mark.skipif(not REAL, reason="SPAMCAF_REAL_DATA names no folder of real data")


@pytest.fixture(scope="module")
def crop() -> anndata.AnnData:
    return anndata.read_h5ad(Path(REAL or ".") / "visium_mini/test_data.h5ad")


@pytest.fixture(scope="module")
def lattice(crop: anndata.AnnData) -> Lattice:
    """The crop keeps no array indices: they are counted off from its first spot."""
    xy = crop.obsm["spatial"].astype(float)
    pitch_px = np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])
    steps = (xy - xy[0]) / (pitch_px / 2, pitch_px * np.sqrt(3) / 2)
    index = np.rint(steps).astype(int)
    assert (index.sum(axis=1) % 2 == 0).all()
    crop.obs[["array_col", "array_row"]] = index
    return fit_lattice(xy, index, "hexagonal")


def test_lattice_and_scale_factors_agree_within_1_percent(crop: anndata.AnnData, lattice: Lattice) -> None:
    (record,) = crop.uns["spatial"].values()
    assert 100 / lattice.pitch_px == pytest.approx(65 / record["scalefactors"]["spot_diameter_fullres"], rel=0.01)
    assert lattice.residual < 0.01
    assert lattice.skew < 0.01


def test_a_grid_of_twice_the_density_lies_half_a_pitch_apart(crop: anndata.AnnData, lattice: Lattice) -> None:
    xy = lay_grid(crop, lattice, 2)[["x_px", "y_px"]].to_numpy()
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    np.testing.assert_allclose(nearest, lattice.pitch_px / 2, rtol=0.02)

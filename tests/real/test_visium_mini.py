"""A real Visium crop, read as any h5ad: its counts come back, its lattice and its scale factors agree."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy.spatial import cKDTree

from spamcaf.parameters import SectionSettings
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.h5ad import H5adReader, find
from spamcaf.sections.lattice import Lattice, fit_lattice
from spamcaf.sections.scale import resolve_scale
from spamcaf.sections.sites import lay_grid

REAL = os.environ.get("SPAMCAF_REAL_DATA")
pytestmark = pytest.mark.skipif(not REAL, reason="SPAMCAF_REAL_DATA names no folder of real data")


@pytest.fixture(scope="module")
def reader() -> H5adReader:
    found = find(SectionQuery(Path(REAL or "."), "visium_mini"))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def crop(reader: H5adReader) -> anndata.AnnData:
    return reader.read()


@pytest.fixture(scope="module")
def lattice(crop: anndata.AnnData) -> Lattice:
    """The crop keeps no array indices: they are counted off from its first spot."""
    xy = crop.obsm["spatial"]
    pitch_px = np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])
    steps = (xy - xy[0]) / (pitch_px / 2, pitch_px * np.sqrt(3) / 2)
    index = np.rint(steps).astype(int)
    assert (index.sum(axis=1) % 2 == 0).all()
    crop.obs[["array_col", "array_row"]] = index
    return fit_lattice(xy, index, crop.uns["section"]["lattice"])


def test_counts_come_back_whole(reader: H5adReader, crop: anndata.AnnData) -> None:
    stored = anndata.read_h5ad(reader.path)
    assert crop.uns["section"]["counts_from"] == "recovered from X, log1p-normalised"
    assert crop.X.dtype == np.int32 and crop.X.min() == 0
    assert (crop.X.max(axis=0).toarray() > 0).sum() == 1401
    counts, linear = crop.X.toarray(), np.expm1(stored.X.toarray().astype(np.float64))
    factor = linear.sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(counts * factor, linear, rtol=1e-5)
    assert list(crop.obs_names) == list(stored.obs_names) and list(crop.var_names) == list(stored.var_names)


def test_the_image_beside_the_file_is_the_slide(reader: H5adReader, crop: anndata.AnnData) -> None:
    slide = reader.open_slide()
    assert slide.shape == (1717, 950)
    assert (crop.obsm["spatial"] >= 0).all() and (crop.obsm["spatial"] < (950, 1717)).all()


def test_lattice_and_scale_factors_agree_within_1_percent(crop: anndata.AnnData, lattice: Lattice) -> None:
    facts = crop.uns["section"]
    scale = resolve_scale(lattice, facts, None, SectionSettings())
    assert scale.mpp == pytest.approx(0.727, rel=0.01)
    assert scale.mpp_by["fiducials"] == pytest.approx(scale.mpp, rel=0.01)
    assert scale.mpp_by["spot diameter"] == pytest.approx(scale.mpp, rel=0.01)
    assert lattice.residual < 0.01
    assert lattice.skew < 0.01


def test_a_grid_of_twice_the_density_lies_half_a_pitch_apart(crop: anndata.AnnData, lattice: Lattice) -> None:
    xy = lay_grid(crop, lattice, 2)[["x_px", "y_px"]].to_numpy()
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    np.testing.assert_allclose(nearest, lattice.pitch_px / 2, rtol=0.02)

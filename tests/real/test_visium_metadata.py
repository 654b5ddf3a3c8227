"""Real position lists and scale factors of Visium and Visium HD read as they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.parameters import SectionSettings
from spamcaf.readers import visium_hd
from spamcaf.readers.anndata_parts import bin_facts
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.visium import read_positions, read_scalefactors, read_thumbnails
from spamcaf.readers.visium_files import Sample
from spamcaf.sections.lattice import fit_lattice
from spamcaf.sections.scale import resolve_scale

REAL = os.environ.get("SPAMCAF_REAL_DATA")
ROOT = Path(REAL or ".") / "visium_spatial"
VISIUM = {"151507": 96.37511, "151510": 96.89000, "151673": 96.40082, "mouse_kidney": 89.45840}
"""Diameter of a spot in pixels, as the files state it."""
SPOTS = 4992
"""On every array of 6.5 mm, on and off the tissue."""

pytestmark = pytest.mark.skipif(not ROOT.is_dir() or not REAL, reason="SPAMCAF_REAL_DATA names no such folder")


def sample(name: str) -> Sample:
    return Sample(ROOT / name, "", name)


@pytest.mark.parametrize("name", VISIUM)
def test_every_spot_of_the_array_has_a_place(name: str) -> None:
    positions = read_positions(sample(name))
    assert len(positions) == SPOTS and positions.index.is_unique
    assert positions.index[0] == "ACGCCTGACACGCGCT-1"  # the first line is a spot, or comes after a header
    assert positions.loc["ACGCCTGACACGCGCT-1", ["array_row", "array_col"]].tolist() == [0, 0]
    row, column = positions["array_row"].to_numpy(), positions["array_col"].to_numpy()
    assert (row.min(), row.max(), column.min(), column.max()) == (0, 77, 0, 127)
    assert ((row + column) % 2 == 0).all()
    assert set(positions["in_tissue"]) == {0, 1}


@pytest.mark.parametrize("name", VISIUM)
def test_scale_factors_fit_the_thumbnail_and_the_places(name: str) -> None:
    factors, positions = read_scalefactors(sample(name)), read_positions(sample(name))
    assert factors["spot_diameter_fullres"] == pytest.approx(VISIUM[name], rel=1e-6)
    image = read_thumbnails(sample(name), factors)["lowres"]
    xy = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy() * factors["tissue_lowres_scalef"]
    assert (xy > 0).all() and (xy < image.shape[1::-1]).all()


def test_bins_of_visium_hd_lie_where_their_names_state() -> None:
    positions, factors = read_positions(sample("hd_002um")), read_scalefactors(sample("hd_002um"))
    assert len(positions) == 10
    named = positions.index.str.extract(r"s_002um_(\d{5})_(\d{5})-1").astype(int).to_numpy()
    np.testing.assert_array_equal(positions[["array_row", "array_col"]], named)
    assert factors["bin_size_um"] == 2
    assert factors["microns_per_pixel"] == pytest.approx(0.273824, rel=1e-5)
    assert factors["microns_per_pixel"] * factors["spot_diameter_fullres"] == pytest.approx(2, rel=1e-4)
    pixels, index = positions[["pxl_row_in_fullres", "pxl_col_in_fullres"]].to_numpy(), named.astype(float)
    step = np.linalg.norm(pixels[1:] - pixels[0], axis=1) / np.linalg.norm(index[1:] - index[0], axis=1)
    np.testing.assert_allclose(step * factors["microns_per_pixel"], 2, rtol=0.01)


def test_the_scale_of_visium_hd_is_the_one_it_states() -> None:
    positions, factors = read_positions(sample("hd_002um")), read_scalefactors(sample("hd_002um"))
    xy = positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    lattice = fit_lattice(xy, positions[["array_col", "array_row"]].to_numpy(), "square")
    facts = bin_facts(factors["bin_size_um"], factors["microns_per_pixel"])
    scale = resolve_scale(lattice, facts, None, SectionSettings())
    assert scale.mpp == factors["microns_per_pixel"]
    assert scale.mpp_by["lattice"] == pytest.approx(scale.mpp, rel=0.005)
    assert (scale.pitch_um, scale.spot_um) == (2, 2)


def test_an_empty_matrix_of_visium_hd_is_found_and_named() -> None:
    reader = visium_hd.find(SectionQuery(ROOT / "hd_002um", "hd_002um"))
    assert reader is not None and reader.bin_um == 2
    with pytest.raises(InputError, match=r"filtered_feature_bc_matrix\.h5 holds no gene expression"):
        reader.read()

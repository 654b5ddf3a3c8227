"""Three real sections of one tumour: they read, check and place right, and each other's images are refused."""

from __future__ import annotations

import os
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from scipy.spatial import cKDTree

from spamcaf.datasets.section import SectionDataset, SectionSlideDataset
from spamcaf.errors import InputError
from spamcaf.histology.placement import require_on_tissue
from spamcaf.histology.slide import Slide
from spamcaf.histology.tissue import Tissue, find_tissue
from spamcaf.parameters import SectionSettings, SplitSettings, TileSettings, TissueSettings
from spamcaf.pipelines.ingestion.nodes import split_spots
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.checks import check_section

REAL = os.environ.get("SPAMCAF_REAL_DATA")
ROOT = Path(REAL or ".") / "her2st"
SECTIONS = {"C2": (187, 15_706), "C3": (180, 15_821), "C4": (184, 15_842)}
MPP = 200 / 290.7
"""Spots 290 px apart in x and 291.5 in y, by the spot files, are 200 um apart."""

pytestmark = pytest.mark.skipif(not REAL, reason="SPAMCAF_REAL_DATA names no folder of real data")


@cache
def slide(name: str) -> Slide:
    return SectionSlideDataset(filepath=str(ROOT), section=name).load()


@cache
def section(name: str) -> AnnData:
    raw = SectionDataset(filepath=str(ROOT), section=name).load()
    return check_section(raw, slide(name).shape, SectionSettings())[0]


@cache
def tissue(name: str) -> Tissue:
    return find_tissue(slide(name), section(name).uns["section"]["mpp"], TissueSettings())


@pytest.mark.parametrize("name", SECTIONS)
def test_reads_and_passes_every_check(name: str) -> None:
    checked = section(name)
    assert checked.shape == SECTIONS[name]
    assert checked.X.sum() > 100_000
    assert checked.obsm["spatial"].min() > 0
    assert (checked.obsm["spatial"].max(axis=0) < slide(name).shape[::-1]).all()


@pytest.mark.parametrize("name", SECTIONS)
def test_the_pitch_is_200_um_within_1_percent(name: str) -> None:
    checked = section(name)
    lattice = lattice_of(checked)
    assert checked.uns["section"]["mpp"] == pytest.approx(MPP, rel=0.01)
    assert lattice.pitch_px * MPP == pytest.approx(200, rel=0.01)
    assert lattice.residual < 0.15
    np.testing.assert_allclose(lattice.basis_px, [[290, 0], [0, 291.5]], atol=8)


@pytest.mark.parametrize("name", SECTIONS)
def test_spots_lie_on_their_own_tissue(name: str) -> None:
    checked = section(name)
    assert require_on_tissue(tissue(name), checked.obsm["spatial"], lattice_of(checked)) > 0.95


def test_every_second_row_and_column_is_visible() -> None:
    checked = section("C2")
    parts = [
        split_spots(checked, SplitSettings(protocol="lattice", mask=m), TileSettings(), 1)["part"] for m in range(4)
    ]
    visible = np.array([part == "train" for part in parts])
    assert (visible.sum(axis=0) == 1).all()
    assert visible.sum(axis=1).min() > 40
    for shown in visible:
        index = checked.obs[["array_row", "array_col"]].to_numpy()[shown]
        assert np.unique(index % 2, axis=0).shape == (1, 2)
        xy_um = checked.obsm["spatial"][shown] * MPP  # as measured, up to .15 pitches off: the nearest is a bit nearer
        assert np.median(cKDTree(xy_um).query(xy_um, k=2)[0][:, 1]) == pytest.approx(385, abs=20)


@pytest.mark.parametrize(("spots", "image"), list(permutations(SECTIONS, 2)))
def test_the_image_of_another_section_is_refused(spots: str, image: str) -> None:
    checked = section(spots)
    with pytest.raises(InputError, match="The image is of another section"):
        require_on_tissue(tissue(image), checked.obsm["spatial"], lattice_of(checked))

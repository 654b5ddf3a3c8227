"""Published Visium sections are let in with the right scale and tissue, and only with their own image, upright."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spamcaf.datasets.section import SectionDataset, SectionSlideDataset
from spamcaf.errors import InputError
from spamcaf.histology.placement import require_on_tissue
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tissue import Tissue, find_tissue
from spamcaf.parameters import GridSettings, SectionSettings, TissueSettings, TransferSettings
from spamcaf.pipelines.ingestion import nodes as ingestion
from spamcaf.pipelines.transfer import nodes as transfer
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.checks import check_section, off_tissue_of

pytestmark = pytest.mark.skipif(
    not os.environ.get("SPAMCAF_REAL_DATA"), reason="SPAMCAF_REAL_DATA names no folder of real data"
)
DLPFC = ("151507", "151510", "151673")
SECTIONS = (*DLPFC, "mouse_kidney")
WriteVisium = Callable[..., Path]
TURNS: dict[str, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    "x and y swapped": np.transpose,
    "left and right exchanged": lambda mask: mask[:, ::-1],
    "top and bottom exchanged": lambda mask: mask[::-1],
    "a turn by 180 degrees": lambda mask: mask[::-1, ::-1],
    "a turn by 270 degrees": np.rot90,
    "a turn by 90 degrees": lambda mask: np.rot90(mask, 3),
    "x and y swapped, and a turn by 180 degrees": lambda mask: mask[::-1, ::-1].T,
}


@pytest.fixture(scope="module")
def load(real_visium: WriteVisium) -> Callable[[str], tuple[AnnData, Slide]]:
    @cache
    def read(name: str) -> tuple[AnnData, Slide]:
        root = str(real_visium(name))
        slide = SectionSlideDataset(filepath=root, section=name).load()
        image = slide.read(0, 0, *slide.shape[::-1])[0]
        held = Slide(ArrayPixels(image, name), slide.name)
        return SectionDataset(filepath=root, section=name).load(), held

    return read


Load = Callable[[str], tuple[AnnData, Slide]]


def checked(raw: AnnData, slide: Slide) -> AnnData:
    return ingestion.check_section(raw, slide, SectionSettings(), TissueSettings())[0]


@pytest.mark.parametrize("name", SECTIONS)
def test_a_published_section_is_let_in_with_the_scale_of_its_lattice(load: Load, name: str) -> None:
    raw, slide = load(name)
    section, report = check_section(raw, slide.shape, SectionSettings())
    assert section.n_obs == (raw.obs["in_tissue"] == 1).sum()
    mpp = report["mpp"]
    assert mpp == pytest.approx(100 / lattice_of(section).pitch_px, rel=1e-4)
    for source in ("fiducials", "spot diameter"):
        assert report["mpp_by"][source] == pytest.approx(mpp, rel=0.005)
    assert section.uns["section"]["spot_diameter_um"] == 55
    assert len(section.uns["section"]["off_tissue_px"]) == 4992 - section.n_obs


@pytest.mark.parametrize("name", SECTIONS)
def test_spots_and_what_lies_between_them_are_tissue(load: Load, name: str) -> None:
    raw, slide = load(name)
    section = checked(raw, slide)
    tissue = ingestion.find_tissue(section, slide, TissueSettings())
    on_px, off_px = section.obsm["spatial"], section.uns["section"]["off_tissue_px"]
    pitch_px = lattice_of(section).pitch_px
    assert tissue.holds(on_px).all()
    far = cKDTree(on_px).query(off_px)[0] > 1.1 * pitch_px
    assert tissue.holds(off_px[far]).mean() <= 0.05
    everywhere = np.vstack([on_px, off_px])
    for k in (2, 3):
        sites = ingestion.lay_grid(section, tissue, GridSettings(subdivide=k))
        assert len(sites) > 0.96 * k**2 * section.n_obs
        all_sites = (on_px[:, None] + np.mgrid[:k, :k].reshape(2, -1).T / k @ lattice_of(section).basis_px).reshape(
            -1, 2
        )
        nearest = cKDTree(everywhere).query(all_sites, k=3)[1]
        enclosed = all_sites[(nearest < len(on_px)).all(axis=1)]
        assert tissue.holds(enclosed).mean() >= 0.99


def test_the_grid_of_a_pale_section_is_whole(load: Load) -> None:
    raw, slide = load("151510")
    section = checked(raw, slide)
    sites = ingestion.lay_grid(
        section, ingestion.find_tissue(section, slide, TissueSettings()), GridSettings(subdivide=2)
    )
    assert len(sites) >= 0.98 * 4 * section.n_obs


@pytest.mark.parametrize("name", DLPFC)
def test_sites_of_an_image_without_spots_lie_where_spots_would_be_under_tissue(load: Load, name: str) -> None:
    raw, slide = load(name)
    section = checked(raw, slide)
    mpp = section.uns["section"]["mpp"]
    _, sites, tissue = transfer.lay_sites(slide, TransferSettings(mpp=mpp), TissueSettings())
    on_px = section.obsm["spatial"]
    assert tissue.holds(on_px).mean() >= 0.95
    far = cKDTree(on_px).query(sites[["x_px", "y_px"]].to_numpy())[0] * mpp > 120
    assert far.mean() <= 0.08


@pytest.fixture(scope="module")
def seen(load: Load) -> Callable[[str], Tissue]:
    @cache
    def find(name: str) -> Tissue:
        raw, slide = load(name)
        mpp = check_section(raw, slide.shape, SectionSettings())[1]["mpp"]
        return find_tissue(slide, mpp, TissueSettings(inside_frame=False))

    return find


def place(raw: AnnData, slide: Slide, tissue: Tissue) -> float:
    """Do what the check of the ingestion does, with a tissue that is found once."""
    section, _ = check_section(raw, slide.shape, SectionSettings())
    return require_on_tissue(tissue, section.obsm["spatial"], lattice_of(section), off_tissue_of(section), slide.name)


@pytest.mark.parametrize("name", SECTIONS)
def test_its_own_image_is_let_in(load: Load, seen: Callable[[str], Tissue], name: str) -> None:
    assert place(*load(name), seen(name)) > 0.98


@pytest.mark.parametrize(("spots", "image"), list(permutations(SECTIONS, 2)))
def test_the_image_of_another_section_is_refused(
    load: Load, seen: Callable[[str], Tissue], spots: str, image: str
) -> None:
    with pytest.raises(InputError, match=rf"{image}_full_image.tif.*trust_image=true"):
        place(load(spots)[0], load(image)[1], seen(image))


@pytest.mark.parametrize("turned", TURNS)
@pytest.mark.parametrize("name", SECTIONS)
def test_another_orientation_is_refused_by_its_name(
    load: Load, seen: Callable[[str], Tissue], name: str, turned: str
) -> None:
    tissue = replace(seen(name), mask=np.ascontiguousarray(TURNS[turned](seen(name).mask)))
    with pytest.raises(InputError, match=f"seem to differ by {turned}( about the middle of the spots)?: bring both"):
        place(*load(name), tissue)


def test_a_part_of_the_tissue_chosen_by_hand_is_not_called_mirrored(load: Load, seen: Callable[[str], Tissue]) -> None:
    raw, slide = load("151673")
    half = raw[raw.obs["array_col"] < 64].copy()
    left_out = raw[raw.obs["array_col"] >= 64].obsm["spatial"]
    half.uns["section"]["off_tissue_px"] = np.vstack([raw.uns["section"]["off_tissue_px"], left_out])
    assert place(half, slide, seen("151673")) > 0.98


def test_an_image_that_was_cut_is_refused_with_the_shift(load: Load, seen: Callable[[str], Tissue]) -> None:
    raw, slide = load("mouse_kidney")
    tissue = seen("mouse_kidney")
    cut = replace(tissue, mask=np.pad(tissue.mask, ((0, 30), (0, 30)))[30:, 30:])  # 240 um off in x and in y
    with pytest.raises(InputError, match=r"moved by x -\d+, y -\d+ px"):
        place(raw, slide, cut)


@pytest.mark.parametrize("name", SECTIONS)
def test_coordinates_in_micrometres_or_hires_pixels_are_refused(
    load: Load, seen: Callable[[str], Tissue], name: str
) -> None:
    raw, slide = load(name)
    mpp = check_section(raw, slide.shape, SectionSettings())[1]["mpp"]
    silent = raw.copy()
    silent.uns = {"section": {"name": name}}
    for factor, what in (
        (mpp, "in micrometres"),
        (1.3, "multiplied by about 0.7[5-9]|of another section"),
        (0.15, "um per pixel"),
    ):
        silent.obsm["spatial"] = raw.obsm["spatial"] * factor
        with pytest.raises(InputError, match=what):
            place(silent, slide, seen(name))

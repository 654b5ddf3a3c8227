"""A sound section passes with the right report; every defect stops with found, expected and next step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import SectionSettings
from spamcaf.sections.checks import check_section

PITCH_PX, MPP = 140.0, 100 / 140
IMAGE = (1400, 2100)
SETTINGS = SectionSettings()


@pytest.fixture
def raw(make_section: Callable[..., AnnData]) -> AnnData:
    return make_section()


def test_sound_section_is_kept_and_reported(raw: AnnData) -> None:
    section, report = check_section(raw, IMAGE, SETTINGS)
    assert section.obs_names.tolist() == raw.obs_names.tolist()
    assert section.uns["section"]["mpp"] == pytest.approx(MPP)
    assert report["n_spots"] == 80
    assert report["n_genes"] == 30
    assert report["pitch_px"] == pytest.approx(PITCH_PX)
    assert report["mpp"] == pytest.approx(MPP, abs=1e-5)
    assert report["lattice_residual_pitches"] == 0
    assert report["image_px"] == {"width": 2100, "height": 1400}
    assert report["median_umi_per_spot"] == np.median(raw.X.toarray().sum(axis=1))
    assert set(report["n_spots_outside_image"].values()) == {0}


def test_off_tissue_and_empty_spots_are_dropped_and_counted(raw: AnnData) -> None:
    raw.obs.iloc[:3, raw.obs.columns.get_loc("in_tissue")] = 0
    dense = raw.X.toarray()
    dense[5:7] = 0
    raw.X = csr_matrix(dense)
    raw.uns["section"]["n_unmatched"] = 0
    section, report = check_section(raw, IMAGE, SETTINGS)
    assert section.obs_names.tolist() == raw.obs_names[[3, 4, *range(7, 80)]].tolist()
    assert report["n_spots_dropped"] == {"empty": 2, "off_tissue": 3, "unmatched": 0}


def test_scale_comes_from_the_lattice_where_the_source_is_silent(raw: AnnData) -> None:
    del raw.uns["section"]["mpp"]
    section, _ = check_section(raw, IMAGE, SETTINGS)
    assert section.uns["section"]["mpp"] == pytest.approx(MPP)


def test_the_input_stays_as_it_was(raw: AnnData) -> None:
    raw.uns["section"]["mpp"] = MPP * 1.01
    check_section(raw, IMAGE, SETTINGS)
    assert raw.uns["section"]["mpp"] == MPP * 1.01


def test_spots_outside_are_counted_by_side(raw: AnnData) -> None:
    raw.obsm["spatial"] -= (600.0, 300.0)
    x, y = raw.obsm["spatial"].T
    _, report = check_section(raw, (900, 1200), SETTINGS)
    sides = {"left": (x < 0).sum(), "right": (x >= 1200).sum(), "top": (y < 0).sum(), "bottom": (y >= 900).sum()}
    assert report["n_spots_outside_image"] == sides
    assert all(sides[side] > 0 for side in ("left", "right", "top"))


def thumbnail(raw: AnnData, rows: int, columns: int) -> None:
    record = {"images": {"hires": np.zeros((rows, columns, 3), np.uint8)}, "scalefactors": {"tissue_hires_scalef": 0.1}}
    raw.uns["spatial"] = {"S1": record}


@pytest.mark.parametrize(("rows", "columns"), [(140, 210), (139, 211)])
def test_thumbnail_of_the_image_passes(raw: AnnData, rows: int, columns: int) -> None:
    thumbnail(raw, rows, columns)
    check_section(raw, IMAGE, SETTINGS)


def facts(**changes: Any) -> Callable[[AnnData], None]:
    return lambda raw: raw.uns["section"].update(changes)


def swap_axes(raw: AnnData) -> None:
    raw.obs[["array_row", "array_col"]] = raw.obs[["array_col", "array_row"]].to_numpy()


def shuffle(raw: AnnData) -> None:
    raw.obsm["spatial"] = np.random.default_rng(0).permutation(raw.obsm["spatial"])


def put(value: float) -> Callable[[AnnData], None]:
    def edit(raw: AnnData) -> None:
        raw.X = raw.X.astype(np.float64)
        raw.X.data[3] = value

    return edit


def lose_coordinate(raw: AnnData) -> None:
    raw.obsm["spatial"][2, 1] = np.nan


def name_twice(axis: str) -> Callable[[AnnData], None]:
    def edit(raw: AnnData) -> None:
        names = getattr(raw, axis).tolist()
        setattr(raw, axis, [names[1], *names[1:]])

    return edit


DEFECTS: dict[str, tuple[Callable[[AnnData], None], str]] = {
    "negative": (put(-1.0), "negative"),
    "missing": (put(np.nan), "missing"),
    "infinite": (put(np.inf), "raw UMI counts"),
    "fractional": (put(1.5), "fractional"),
    "empty matrix": (lambda raw: setattr(raw, "X", csr_matrix(raw.shape)), "empty"),
    "barcode twice": (name_twice("obs_names"), "barcode spot1-1 twice"),
    "gene twice": (name_twice("var_names"), "gene gene1 twice"),
    "no coordinate": (lose_coordinate, "1 spots without coordinates"),
    "no gene ids": (lambda raw: raw.var.drop(columns="gene_ids", inplace=True), "gene_ids"),
    "too few spots": (lambda raw: raw.obs.__setitem__("in_tissue", [1] * 5 + [0] * 75), "5 spots .*at least 20"),
    "unmatched": (facts(n_unmatched=5), "5 of 85 barcodes .*-1"),
    "rows and columns swapped": (swap_axes, "Check array_row, array_col"),
    "coordinates shuffled": (shuffle, "pitches off a hexagonal lattice"),
    "stated scale is another": (facts(mpp=MPP * 1.05), "um per pixel by the scale factors"),
    "thumbnail of another image": (lambda raw: thumbnail(raw, 200, 200), "thumbnail of one of 2000 x 2000"),
    "thumbnail turned": (lambda raw: thumbnail(raw, 210, 140), "thumbnail of one of 1400 x 2100"),
}


@pytest.mark.filterwarnings("ignore:.* names are not unique")
@pytest.mark.parametrize(("edit", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_stops(raw: AnnData, edit: Callable[[AnnData], None], message: str) -> None:
    edit(raw)
    with pytest.raises(InputError, match=f"^Found: .*{message}") as caught:
        check_section(raw, IMAGE, SETTINGS)
    assert " Expected: " in str(caught.value)
    assert " Next step: " in str(caught.value)


@pytest.mark.parametrize("shape", [(140, 210), (500, 700)])
def test_thumbnail_given_as_the_image_stops(raw: AnnData, shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="do not belong together"):
        check_section(raw, shape, SETTINGS)


def test_all_spots_off_the_tissue_stop(raw: AnnData) -> None:
    raw.obs["in_tissue"] = 0
    with pytest.raises(InputError, match="0 spots"):
        check_section(raw, IMAGE, SETTINGS)


def test_one_row_of_spots_stops(raw: AnnData) -> None:
    settings = SectionSettings(min_spots=4)
    with pytest.raises(InputError, match="Next step"):
        check_section(raw[raw.obs["array_row"] == 0].copy(), IMAGE, settings)


def test_a_dense_matrix_is_checked_too(raw: AnnData) -> None:
    raw.X = raw.X.toarray()
    section, _ = check_section(raw, IMAGE, SETTINGS)
    np.testing.assert_array_equal(section.X.toarray(), raw.X)
    raw.X[3, 3] = -1
    with pytest.raises(InputError, match="negative"):
        check_section(raw, IMAGE, SETTINGS)

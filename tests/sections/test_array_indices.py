"""Array indices of the source are kept where coordinates confirm them, refused where they contradict, else found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spamcaf.errors import InputError
from spamcaf.names import Obs
from spamcaf.parameters import SectionSettings
from spamcaf.sections.array_indices import lattice_of, whole_numbers
from spamcaf.sections.checks import check_section

PITCH_PX = 140.0
IMAGE = (1400, 2100)
SETTINGS = SectionSettings()


@pytest.fixture
def raw(make_section: Callable[..., AnnData]) -> AnnData:
    return make_section()


def square(raw: AnnData) -> None:
    row, column = np.divmod(np.arange(raw.n_obs), 10)
    raw.obsm["spatial"] = np.column_stack([column, row]) * PITCH_PX + 100.0


def test_indices_and_tissue_flags_may_be_text_categories_or_booleans(raw: AnnData) -> None:
    expected, _ = check_section(raw, IMAGE, SETTINGS)
    raw.obs["in_tissue"] = raw.obs["in_tissue"].astype(bool)
    raw.obs["array_row"] = raw.obs["array_row"].astype(str).astype("category")
    raw.obs["array_col"] = raw.obs["array_col"].astype(str)
    section, _ = check_section(raw, IMAGE, SETTINGS)
    for column in ("in_tissue", "array_row", "array_col"):
        np.testing.assert_array_equal(section.obs[column].to_numpy(), expected.obs[column].to_numpy())


def test_a_few_spots_out_of_position_do_no_harm(make_section: Callable[..., AnnData]) -> None:
    raw = make_section(n_rows=20, n_columns=20)
    raw.obsm["spatial"][7] += (60.0, 40.0)
    check_section(raw, (3000, 3500), SETTINGS)


def test_half_of_a_large_section_moved_by_a_pitch_stops(make_section: Callable[..., AnnData]) -> None:
    raw = make_section(n_rows=30, n_columns=40)
    xy = raw.obsm["spatial"]
    raw.obsm["spatial"] = xy - np.where(xy[:, 1:] > xy[:, 1].mean(), [PITCH_PX, 0.0], 0.0)
    with pytest.raises(InputError, match="600 of 1200 spots lie elsewhere"):
        check_section(raw, (4000, 6200), SETTINGS)


def test_a_square_array_dressed_as_visium_is_read_with_its_pitch(raw: AnnData) -> None:
    square(raw)
    raw.obs["array_row"], raw.obs["array_col"] = np.divmod(np.arange(raw.n_obs), 10)[::-1]
    del raw.uns["section"]["mpp"]
    section, report = check_section(raw, IMAGE, SectionSettings(pitch_um=50))
    assert (report["lattice"], report["pitch_um"], report["mpp"]) == (
        "square",
        50,
        pytest.approx(50 / PITCH_PX, abs=1e-5),
    )
    assert section.uns["section"]["spot_diameter_um"] == pytest.approx(27.5)


def test_a_square_array_numbered_as_visium_is_refused_without_its_pitch(raw: AnnData) -> None:
    square(raw)
    row, column = np.divmod(np.arange(raw.n_obs), 10)
    raw.obs["array_row"], raw.obs["array_col"] = row, 2 * column + row % 2
    del raw.uns["section"]["mpp"]
    with pytest.raises(InputError, match="--params section_checks.pitch_um=<um>"):
        check_section(raw, IMAGE, SETTINGS)
    section, _ = check_section(raw, IMAGE, SectionSettings(pitch_um=50))
    assert lattice_of(section).pitch_px == pytest.approx(PITCH_PX)


@pytest.mark.parametrize("n", [25, 60, 200])
def test_scattered_spots_with_indices_keep_them(make_section: Callable[..., AnnData], n: int) -> None:
    """As the spots of a rare cluster: their distances do not show the lattice."""
    whole = make_section(n_rows=40, n_columns=40)
    whole.uns["section"].pop("mpp")
    raw = whole[np.sort(np.random.default_rng(0).choice(whole.n_obs, n, replace=False))].copy()
    section, report = check_section(raw, (6000, 7000), SETTINGS)
    assert report["pitch_px"] == pytest.approx(PITCH_PX, abs=0.01)
    np.testing.assert_array_equal(section.obs["array_row"], raw.obs["array_row"])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n", [80, 2000])
def test_cells_at_random_coordinates_lie_on_no_lattice(make_section: Callable[..., AnnData], seed: int, n: int) -> None:
    raw = make_section(n_rows=n // 40, n_columns=40)
    raw.obs = raw.obs[["in_tissue"]]
    raw.uns["section"] = {"name": "S1"}
    raw.obsm["spatial"] = np.random.default_rng(seed).random((raw.n_obs, 2)) * 1300
    with pytest.raises(InputError, match="spots on no lattice.*single cells"):
        check_section(raw, IMAGE, SETTINGS)


@pytest.mark.parametrize("value", ["1.5", "inf", "", "x"])
def test_an_index_that_is_no_whole_number_is_refused_with_its_spot(value: str) -> None:
    section = AnnData(np.zeros((3, 1)), obs=pd.DataFrame({"array_row": ["3", "TRUE", value]}, index=list("abc")))
    with pytest.raises(InputError, match=rf"array_row '{value}' of c\."):
        whole_numbers(section, Obs.ARRAY_ROW)
    assert whole_numbers(section[:2], Obs.ARRAY_ROW).tolist() == [3, 1]

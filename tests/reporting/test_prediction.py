"""A prediction keeps the output contract: columns, dtypes, images, scale factors and record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spamcaf.errors import InputError
from spamcaf.parameters import GridSettings
from spamcaf.reporting.prediction import build_prediction, library_id, named_layers
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.sites import lay_grid

N_GENES = 4
PITCH_PX = 140.0


@pytest.fixture
def make_section() -> Callable[[], AnnData]:
    """Return a maker of hexagonal sections, x from 500 px and y from 200 px, so that swapped axes show."""

    def make() -> AnnData:
        row, column = (a.ravel() for a in np.mgrid[:8, :10])
        column = 2 * column + row % 2
        obs = pd.DataFrame({"array_row": row, "array_col": column}, index=[f"spot{i}-1" for i in range(len(row))])
        section = AnnData(np.ones((len(row), N_GENES), np.int32), obs=obs)
        section.var_names = [f"gene{i}" for i in range(N_GENES)]
        section.var["gene_ids"] = [f"ENSG{i}" for i in range(N_GENES)]
        xy = np.column_stack([column * PITCH_PX / 2, row * PITCH_PX * np.sqrt(3) / 2])
        section.obsm["spatial"] = xy + np.array([500.0, 200.0])
        section.uns["section"] = {"name": "S1", "lattice": "hexagonal", "pitch_um": 100.0, "mpp": 100 / PITCH_PX}
        return section

    return make


def predict(section: AnnData, subdivide: int = 2, **changes: Any) -> AnnData:
    section.uns["section"]["spot_diameter_um"] = 55.0
    sites = lay_grid(section, lattice_of(section), subdivide)
    mean = np.arange(len(sites) * N_GENES, dtype=np.float64).reshape(-1, N_GENES)
    arguments: dict[str, Any] = {
        "mean": mean,
        "sd": mean / 10,
        "genes": section.var.iloc[:N_GENES],
        "sites": sites,
        "n_px_padded": np.arange(len(sites)),
        "section": section,
        "thumbnail": np.full((300, 500, 3), 90, np.uint8),
        "px_per_thumbnail_px": 5.0,
        "grid": GridSettings(subdivide=subdivide),
        "provenance": {
            "seed": np.int64(3),
            "loss": float("nan"),
            "sources": {"~/atlas.csv": 0.5},
            "backbone": {"id": "lite0"},
        },
    }
    return build_prediction(**(arguments | changes))


def test_every_part_survives_the_file(make_section: Callable[..., AnnData], tmp_path: Path) -> None:
    made = predict(make_section())
    made.write_h5ad(tmp_path / "p.h5ad")
    stored = anndata.read_h5ad(tmp_path / "p.h5ad")
    pd.testing.assert_frame_equal(stored.obs, made.obs)
    pd.testing.assert_frame_equal(stored.var, made.var)
    assert stored.X.dtype == stored.layers["sd"].dtype == np.float32
    assert np.array_equal(stored.X, made.X)
    assert np.array_equal(stored.layers["sd"], made.layers["sd"])
    assert stored.obsm["spatial"].dtype == np.float64
    assert np.array_equal(stored.obsm["spatial"], made.obsm["spatial"])
    assert stored.uns["spamcaf"] == made.uns["spamcaf"]
    assert stored.uns["spamcaf"]["sources"] == {"~%2Fatlas.csv": 0.5}
    entry, before = stored.uns["spatial"]["S1"], made.uns["spatial"]["S1"]
    assert entry["metadata"] == before["metadata"]
    assert entry["scalefactors"] == before["scalefactors"]
    assert all(np.array_equal(entry["images"][k], before["images"][k]) for k in ("hires", "lowres"))


def test_columns_are_those_of_the_contract(make_section: Callable[..., AnnData]) -> None:
    obs = predict(make_section()).obs
    for column in ("sub_index", "in_tissue", "array_row", "array_col", "n_px_padded"):
        assert obs[column].dtype == np.int64, column
    assert not any(pd.api.types.is_bool_dtype(obs[column]) for column in obs)
    assert list(obs["origin"].cat.categories) == ["measured", "predicted"]
    assert (obs["origin"] == "predicted").all()
    assert obs["library_id"].cat.categories.tolist() == ["S1"]
    assert (obs.index == obs["parent_barcode"] + "_s" + obs["sub_index"].astype(str)).all()


def test_both_origins_are_categories_where_only_spots_are_predicted(make_section: Callable[..., AnnData]) -> None:
    assert list(predict(make_section(), 1).obs["origin"].cat.categories) == ["measured", "predicted"]


@pytest.mark.parametrize("subdivide", [1, 2, 3])
def test_the_diameter_is_the_sub_spots(make_section: Callable[..., AnnData], subdivide: int) -> None:
    entry = predict(make_section(), subdivide).uns["spatial"]["S1"]
    spot_px = 55.0 / (100 / 140)
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(spot_px / subdivide)
    assert entry["metadata"]["site_pitch_um"] == pytest.approx(entry["metadata"]["parent_pitch_um"] / subdivide)
    raster = predict(make_section(), subdivide, grid=GridSettings(pitch_um=8)).uns["spatial"]["S1"]
    assert raster["scalefactors"]["spot_diameter_fullres"] == pytest.approx(8 / raster["metadata"]["mpp"])
    assert raster["metadata"]["site_pitch_um"] == 8 and "subdivide" not in raster["metadata"]
    assert entry["metadata"]["parent_spot_diameter_fullres"] == pytest.approx(spot_px)
    assert entry["metadata"]["mpp"] == pytest.approx(100 / 140)


def test_images_come_from_the_thumbnail_and_are_never_enlarged(make_section: Callable[..., AnnData]) -> None:
    thumbnail = np.zeros((1500, 3000, 3), np.uint8)
    entry = predict(make_section(), thumbnail=thumbnail, px_per_thumbnail_px=2.0).uns["spatial"]["S1"]
    images, scales = entry["images"], entry["scalefactors"]
    assert images["hires"].shape == (1000, 2000, 3)
    assert images["lowres"].shape == (300, 600, 3)
    assert scales["tissue_hires_scalef"] == pytest.approx(2000 / 6000)
    assert scales["tissue_lowres_scalef"] == pytest.approx(600 / 6000)
    small = predict(make_section()).uns["spatial"]["S1"]
    assert small["images"]["hires"].shape == (300, 500, 3)
    assert small["scalefactors"]["tissue_hires_scalef"] == pytest.approx(0.2)


def test_the_sections_own_images_win(make_section: Callable[..., AnnData]) -> None:
    section = make_section()
    hires = np.random.default_rng(0).random((40, 60, 4)).astype(np.float32)
    factors = {"tissue_hires_scalef": 0.04, "fiducial_diameter_fullres": 147.0, "spot_diameter_fullres": 91.0}
    section.uns["spatial"] = {"V1": {"images": {"hires": hires}, "scalefactors": factors}}
    entry = predict(section).uns["spatial"]["S1"]
    assert entry["images"]["hires"].dtype == np.uint8
    assert np.abs(entry["images"]["hires"] / 255 - hires[..., :3]).max() < 1 / 255
    assert entry["scalefactors"]["tissue_hires_scalef"] == 0.04
    assert entry["scalefactors"]["fiducial_diameter_fullres"] == 147.0
    assert entry["images"]["lowres"].shape == (300, 500, 3)


def test_the_record_is_plain_and_nested(make_section: Callable[..., AnnData]) -> None:
    record = predict(make_section()).uns["spamcaf"]
    assert record == {
        "seed": 3,
        "backbone": {"id": "lite0"},
        "sources": {"~%2Fatlas.csv": 0.5},
        "schema_version": "1",
        "scale": "log1p of counts per 10 000",
    }


def test_a_model_without_sd_leaves_no_layer(make_section: Callable[..., AnnData]) -> None:
    assert "sd" not in predict(make_section(), sd=None).layers


@pytest.mark.parametrize(
    ("name", "expected"),
    [("151673", "151673"), (151673, "151673"), ("Block A/1", "Block_A_1"), ("_x", "section_x"), ("..", "section..")],
)
def test_library_names_are_safe(make_section: Callable[..., AnnData], name: str | int, expected: str) -> None:
    section = make_section()
    section.uns["section"]["name"] = name
    assert library_id(section) == expected


def test_what_does_not_fit_is_refused(make_section: Callable[..., AnnData]) -> None:
    n = 4 * make_section().n_obs
    for change in (
        {"mean": np.zeros((n - 1, N_GENES))},
        {"sd": np.zeros((n, N_GENES + 1))},
        {"n_px_padded": np.zeros(3, int)},
        {"mean": np.full((n, N_GENES), np.nan)},
        {"genes": pd.DataFrame(index=list("ABCD"))},
        {"genes": pd.DataFrame({"gene_ids": list("ABCD")}, index=list("AABC"))},
    ):
        with pytest.raises(ValueError, match="Found"):
            predict(make_section(), **change)


def test_a_model_that_predicts_no_numbers_is_one_sentence(make_section: Callable[..., AnnData]) -> None:
    mean = np.full(predict(make_section()).shape, np.inf, np.float32)
    with pytest.raises(InputError, match="NaN or infinity in the prediction"):
        predict(make_section(), mean=mean)


def test_a_text_of_a_record_that_only_looks_like_json_stays_a_text(make_section: Callable[..., AnnData]) -> None:
    prediction = predict(make_section(), provenance={"section": "{a", "view": '{"tile_um": 55}'})
    record = prediction.uns["spamcaf"]
    assert (record["section"], record["view"]) == ("{a", {"tile_um": 55})


def test_layers_are_those_with_a_name_whatever_anndata_lists() -> None:
    sd = np.ones((3, 2), np.float32)
    data = AnnData(np.zeros((3, 2), np.float32), layers={"sd": sd})
    assert list(named_layers(data)) == ["sd"]
    listed: Any = SimpleNamespace(layers={None: data.X, "sd": sd})
    assert named_layers(listed) == {"sd": sd}

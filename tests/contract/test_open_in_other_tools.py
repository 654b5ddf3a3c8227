"""Other tools open what a run writes: scanpy, squidpy, SpatialData, and QuPath by the rules of its importer.

The section is wider than high, so that swapped axes show.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata
import geopandas
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import shapely
import spatialdata as sd
import squidpy as sq
from anndata import AnnData
from shapely.geometry import shape
from spatialdata.transformations import get_transformation

from spamcaf.datasets.stored import GzippedJSONDataset, SpatialDataDataset
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.parameters import GridSettings
from spamcaf.reporting.exports import to_geojson, to_spatialdata
from spamcaf.reporting.prediction import build_prediction
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.sites import lay_grid

PITCH_PX, MPP, SUBDIVIDE = 100.0, 1.0, 2
ROWS_PX, COLUMNS_PX = 1300, 2300
PX_PER_THUMBNAIL_PX = 4.0
GENES = ["Mbp", "Plp1", "Snap25"]


@pytest.fixture(autouse=True)
def _no_windows() -> None:
    mpl.use("Agg")


@pytest.fixture(scope="session")
def slide() -> Slide:
    """Return an image whose red grows with x and whose green grows with y."""
    image = np.empty((ROWS_PX, COLUMNS_PX, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, COLUMNS_PX)[None, :]
    image[..., 1] = np.linspace(0, 255, ROWS_PX)[:, None]
    image[..., 2] = 7
    return Slide(ArrayPixels(image, "ramp"), "ramp")


def make_section() -> AnnData:
    """Return 20 x 9 spots on a hexagonal lattice, without images."""
    row, column = (a.ravel() for a in np.mgrid[:9, :20])
    column = 2 * column + row % 2
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": row, "array_col": column}, index=[f"SPOT{i}-1" for i in range(len(row))]
    )
    section = AnnData(np.ones((len(row), len(GENES)), np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    section.obsm["spatial"] = np.column_stack([150 + column * PITCH_PX / 2, 120 + row * PITCH_PX * np.sqrt(3) / 2])
    section.uns["section"] = {
        "name": "block A (1)",
        "lattice": "hexagonal",
        "pitch_um": 100.0,
        "spot_diameter_um": 55.0,
        "mpp": MPP,
    }
    return section


def make_prediction(section: AnnData, slide: Slide) -> AnnData:
    """Return a prediction whose first gene is x / 1000 and whose second is y / 1000."""
    sites = lay_grid(section, lattice_of(section), SUBDIVIDE)
    mean = np.column_stack([sites["x_px"] / 1000, sites["y_px"] / 1000, np.ones(len(sites))]).astype(np.float32)
    genes = pd.DataFrame({"gene_ids": [f"ENS{i}" for i in range(len(GENES))]}, index=GENES)
    return build_prediction(
        mean,
        np.full_like(mean, 0.5),
        genes,
        sites,
        np.arange(len(sites)),
        section,
        slide.thumbnail(PX_PER_THUMBNAIL_PX),
        PX_PER_THUMBNAIL_PX,
        GridSettings(subdivide=SUBDIVIDE),
        {"seed": 1},
    )


@pytest.fixture
def section() -> AnnData:
    return make_section()


@pytest.fixture
def prediction(section: AnnData, slide: Slide) -> AnnData:
    return make_prediction(section, slide)


# --- scanpy and squidpy ---


def test_analysis_and_map(prediction: AnnData, tmp_path: Path) -> None:
    prediction.write_h5ad(tmp_path / "prediction.h5ad")
    stored = anndata.read_h5ad(tmp_path / "prediction.h5ad")
    sc.pp.pca(stored, n_comps=2)
    sc.pp.neighbors(stored, n_neighbors=6, transformer="sklearn", method="gauss")
    assert stored.obsp["connectivities"].nnz > stored.n_obs
    axes = sc.pl.embedding(stored, basis="spatial", color="Mbp", show=False)
    offsets = axes.collections[0].get_offsets()
    assert np.allclose(np.sort(offsets[:, 0]), np.sort(stored.obsm["spatial"][:, 0]))
    plt.close("all")


def test_scatter_draws_sub_spots_where_they_are(prediction: AnnData, tmp_path: Path) -> None:
    prediction.write_h5ad(tmp_path / "prediction.h5ad")
    stored = anndata.read_h5ad(tmp_path / "prediction.h5ad")
    axes = sq.pl.spatial_scatter(stored, color=["Mbp", "origin"], library_key="library_id", return_ax=True)
    first = np.ravel(axes)[0]
    image = first.images[0].get_array()
    hires = stored.uns["spatial"]["block_A__1_"]["images"]["hires"]
    assert image.shape[:2] == hires.shape[:2]
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


# --- QuPath, whose importer reads objectType, name, and measurements by name ---


def test_every_feature_is_a_sound_detection(prediction: AnnData, tmp_path: Path) -> None:
    dataset = GzippedJSONDataset(filepath=str(tmp_path / "sites.geojson.gz"))
    dataset.save(to_geojson(prediction, ["Plp1"]))
    collection = dataset.load()
    assert collection["type"] == "FeatureCollection"
    assert [f["properties"]["name"] for f in collection["features"]] == prediction.obs_names.tolist()
    assert {f["properties"]["objectType"] for f in collection["features"]} == {"detection"}
    rings = [shape(f["geometry"]) for f in collection["features"]]
    assert all(ring.is_valid and ring.exterior.is_ccw for ring in rings)
    centres = shapely.get_coordinates(shapely.centroid(rings))
    assert np.allclose(centres, prediction.obsm["spatial"], atol=0.02)
    widths = shapely.bounds(rings)
    assert np.allclose(widths[:, 2] - widths[:, 0], 27.5, atol=0.05)


def test_geopandas_reads_it(prediction: AnnData, tmp_path: Path) -> None:
    dataset = GzippedJSONDataset(filepath=str(tmp_path / "sites.geojson.gz"))
    dataset.save(to_geojson(prediction, ["Plp1", "Snap25"]))
    (tmp_path / "sites.geojson").write_bytes(gzip.decompress((tmp_path / "sites.geojson.gz").read_bytes()))
    frame = geopandas.read_file(tmp_path / "sites.geojson")
    assert len(frame) == prediction.n_obs


# --- SpatialData ---

LIB = "block_A__1_"
HIRES = f"{LIB}_downscaled_hires"


@pytest.fixture(scope="module")
def stored(slide: Slide, tmp_path_factory: pytest.TempPathFactory) -> sd.SpatialData:
    """Return the prediction as stored; tests only read it."""
    path, section = tmp_path_factory.mktemp("stored") / "section.zarr", make_section()
    SpatialDataDataset(filepath=str(path)).save(to_spatialdata(make_prediction(section, slide), section, slide))
    return sd.read_zarr(path)


def test_elements_and_coordinate_systems(stored: sd.SpatialData) -> None:
    assert set(stored.images) == {f"{LIB}_full_image", f"{LIB}_hires_image"}
    assert set(stored.shapes) == {f"{LIB}_spots", f"{LIB}_subspots"}
    assert set(stored.coordinate_systems) == {LIB, HIRES}
    assert all(len(stored.filter_by_coordinate_system(name).shapes) == 2 for name in (LIB, HIRES))


def test_the_full_image_is_the_slide(stored: sd.SpatialData, slide: Slide) -> None:
    levels = stored.images[f"{LIB}_full_image"]
    assert [levels[name].image.shape for name in levels][:2] == [(3, 1300, 2300), (3, 650, 1150)]
    pixels = levels["scale0"].image.to_numpy()
    assert np.array_equal(np.moveaxis(pixels, 0, -1), slide.pixels.crop(0, 0, 2300, 1300))
    assert list(levels["scale0"].image.coords["c"].to_numpy()) == ["r", "g", "b"]


def test_circles_have_the_radius_of_spot_and_sub_spot(stored: sd.SpatialData, prediction: AnnData) -> None:
    assert np.allclose(stored.shapes[f"{LIB}_spots"]["radius"], 27.5)
    subspots = stored.shapes[f"{LIB}_subspots"]
    assert np.allclose(subspots["radius"], 13.75)
    xy = prediction.to_df().loc[subspots.index]
    assert np.allclose(subspots.geometry.x / 1000, xy["Mbp"], atol=1e-6)
    assert np.allclose(subspots.geometry.y / 1000, xy["Plp1"], atol=1e-6)


def test_both_images_lie_on_each_other_in_both_systems(stored: sd.SpatialData) -> None:
    for system in (LIB, HIRES):
        full, hires = (sd.get_extent(stored.images[f"{LIB}_{kind}_image"], system) for kind in ("full", "hires"))
        for axis in ("x", "y"):
            assert hires[axis] == pytest.approx(full[axis], rel=0.01, abs=1e-6)
    scale = get_transformation(stored.shapes[f"{LIB}_subspots"], HIRES).to_affine_matrix(("x", "y"), ("x", "y"))
    assert np.allclose(np.diag(scale), [0.25, 0.25, 1])


def test_a_window_brings_image_shapes_and_rows_of_the_table(stored: sd.SpatialData) -> None:
    window = sd.bounding_box_query(
        stored,
        axes=("x", "y"),
        min_coordinate=[500, 300],
        max_coordinate=[900, 500],
        target_coordinate_system=LIB,
    )
    rows = window.tables["table"].to_df()
    assert 0 < len(rows) < stored.tables["table"].n_obs
    assert rows["Mbp"].between(0.480, 0.920).all()
    assert rows["Plp1"].between(0.280, 0.520).all()
    assert set(window.tables["table"].obs["instance_id"]) == set(window.shapes[f"{LIB}_subspots"].index)
    assert window.get(f"{LIB}_full_image")["scale0"].image.shape == (3, 200, 400)


def test_values_join_their_circles_by_id(stored: sd.SpatialData, prediction: AnnData) -> None:
    values = sd.get_values("Plp1", sdata=stored, element_name=f"{LIB}_subspots", table_name="table")
    assert np.array_equal(values["Plp1"].loc[prediction.obs_names], prediction.to_df()["Plp1"])


def test_nothing_is_read_before_it_is_needed(prediction: AnnData, section: AnnData) -> None:
    class Sealed:
        shape, fingerprint = (1300, 2300), "sealed"

        def crop(self, *_: int) -> np.ndarray:
            raise AssertionError("read")

    data = to_spatialdata(prediction, section, Slide(Sealed(), "sealed"))
    with pytest.raises(AssertionError, match="read"):
        data.images[f"{LIB}_full_image"]["scale0"].image[:, :5, :5].compute()


def test_the_prediction_itself_is_left_as_it_was(prediction: AnnData, section: AnnData, slide: Slide) -> None:
    columns, keys = list(prediction.obs), list(prediction.uns)
    to_spatialdata(prediction, section, slide)
    assert (list(prediction.obs), list(prediction.uns)) == (columns, keys)


def test_spatialdata_plot_draws_it(stored: sd.SpatialData) -> None:
    pytest.importorskip("spatialdata_plot", reason="spatialdata-plot is not installed")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    layers = stored.pl.render_images(f"{LIB}_full_image").pl.render_shapes(f"{LIB}_subspots", color="Mbp")
    layers.pl.show(coordinate_systems=LIB, ax=axes)
    assert axes.images
    assert axes.collections
    plt.close(figure)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd
from anndata import AnnData
from spatialdata.transformations import get_transformation

from spamcaf.datasets.stored import SpatialDataDataset
from spamcaf.histology.slide import Slide
from spamcaf.reporting.exports import to_spatialdata

LIB = "block_A__1_"
HIRES = f"{LIB}_downscaled_hires"


@pytest.fixture
def stored(prediction: AnnData, section: AnnData, slide: Slide, tmp_path: Path) -> sd.SpatialData:
    dataset = SpatialDataDataset(filepath=str(tmp_path / "section.zarr"))
    dataset.save(to_spatialdata(prediction, section, slide))
    return sd.read_zarr(tmp_path / "section.zarr")


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

"""SpatialData stores: spots joined by id and placed in the image's pixels, images read lazily, defects named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale

from spamcaf.datasets.stored import SpatialDataDataset
from spamcaf.errors import InputError
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.spatialdata import SpatialDataReader, find

N_SPOTS, N_GENES = 24, 12
ROW, STEP = np.divmod(np.arange(N_SPOTS), 4)
COLUMN = 2 * STEP + ROW % 2
XY = np.column_stack([30.0 + 20 * COLUMN, 15.0 + 34.64 * ROW])
DIAMETER = 26.0  # 40 px are 100 um
COUNTS = np.random.default_rng(0).poisson(1.0, (N_SPOTS, N_GENES))
ROWS, COLUMNS = 230, 200
FULL = np.random.default_rng(1).integers(0, 256, (3, ROWS, COLUMNS), dtype=np.uint8)
SMALL = FULL[:, ::10, ::10]
SAME, SHRUNK = "global", "downscaled_hires"


def image(pixels: Any, systems: dict[str, Any] | None = None, **more: Any) -> Any:
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems or {SAME: Identity()}, **more)


def circles(xy: np.ndarray = XY, radius: float = DIAMETER / 2, systems: dict[str, Any] | None = None) -> Any:
    systems = systems or {SAME: Identity(), SHRUNK: Scale([0.1, 0.1], axes=("x", "y"))}
    return ShapesModel.parse(xy, geometry=0, radius=radius, index=np.arange(len(xy)), transformations=systems)


def squares(side: float) -> Any:
    outlines = circles().buffer(side / 2, cap_style="square")
    return ShapesModel.parse(outlines.to_frame("geometry"), transformations={SAME: Identity()})


def table(region: str = "A1", ids: Any = None, x: Any = None, **uns: Any) -> AnnData:
    data = AnnData(csr_matrix(COUNTS.astype(np.float32)) if x is None else x, uns=uns)
    data.obs_names = [f"SPOT{i}-1" for i in range(N_SPOTS)]
    data.var_names = [f"Gene{i}" for i in range(N_GENES)]
    data.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(N_GENES)]
    data.obs["in_tissue"], data.obs["array_row"], data.obs["array_col"] = 1, ROW, COLUMN
    data.obs["region"] = pd.Categorical([region] * N_SPOTS)
    data.obs["spot_id"] = np.arange(N_SPOTS) if ids is None else ids
    return TableModel.parse(data, region=region, region_key="region", instance_key="spot_id")


def visium(**parts: dict[str, Any]) -> SpatialData:
    """A Visium section as spatialdata-io reads it, with some parts replaced."""
    images = {"A1_full_image": image(FULL), "A1_hires_image": image(SMALL, {SHRUNK: Identity()})}
    return SpatialData(**{"images": images, "shapes": {"A1": circles()}, "tables": {"table": table()}, **parts})


def write(folder: Path, data: SpatialData, name: str = "A1.zarr") -> Path:
    SpatialDataDataset(filepath=str(folder / name)).save(data)
    return folder / name


def reader(root: Path, section: str = "A1", **choices: Any) -> SpatialDataReader:
    found = find(SectionQuery(root, section, **choices))
    assert found is not None
    return found


def read(folder: Path, data: SpatialData, section: str = "A1", **choices: Any) -> AnnData:
    return reader(write(folder, data), section, **choices).read()


def test_a_visium_section_is_read_whole(tmp_path: Path) -> None:
    section = read(tmp_path, visium())
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    assert section.X.dtype == np.int32
    np.testing.assert_array_equal(section.obs[["array_row", "array_col"]], np.column_stack([ROW, COLUMN]))
    np.testing.assert_allclose(section.obsm["spatial"], XY)
    assert list(section.obs_names) == [f"SPOT{i}-1" for i in range(N_SPOTS)]
    assert section.uns["section"] == {
        "name": "A1",
        "n_unmatched": 0,
        "counts_from": "X",
        "lattice": "hexagonal",
        "pitch_um": 100.0,
        "spot_diameter_um": 55.0,
        "spot_diameter_px": DIAMETER,
    }


def test_the_thumbnail_comes_with_its_scale(tmp_path: Path) -> None:
    record = read(tmp_path, visium()).uns["spatial"]["A1"]
    np.testing.assert_array_equal(record["images"]["hires"], np.moveaxis(SMALL, 0, -1))
    assert record["scalefactors"] == pytest.approx({"spot_diameter_fullres": DIAMETER, "tissue_hires_scalef": 0.1})


ROTATED = np.array([[0.0, -2.0, 190.0], [2.0, 0.0, 5.0], [0.0, 0.0, 1.0]])
PLACEMENTS: dict[str, tuple[Any, Any, np.ndarray]] = {
    "shapes half as large": (Scale([2, 2], axes=("x", "y")), Identity(), XY * 2),
    "image twice as large": (Identity(), Scale([0.5, 0.5], axes=("y", "x")), XY * 2),
    "rotated": (Affine(ROTATED, ("x", "y"), ("x", "y")), Identity(), XY @ ROTATED[:2, :2].T + ROTATED[:2, 2]),
}


@pytest.mark.parametrize(("of_shapes", "of_image", "expected"), PLACEMENTS.values(), ids=PLACEMENTS)
def test_spots_are_placed_in_the_images_pixels(
    tmp_path: Path, of_shapes: Any, of_image: Any, expected: np.ndarray
) -> None:
    shapes = {"A1": circles(systems={SAME: of_shapes})}
    section = read(tmp_path, visium(shapes=shapes, images={"A1_full_image": image(FULL, {SAME: of_image})}))
    np.testing.assert_allclose(section.obsm["spatial"], expected)
    assert section.uns["section"]["spot_diameter_px"] == pytest.approx(2 * DIAMETER)


def test_spots_of_the_coarser_levels_lie_where_they_are_in_the_first(tmp_path: Path) -> None:
    systems = {SAME: Identity(), SHRUNK: Scale([0.1, 0.1], axes=("x", "y"))}
    section = read(tmp_path, visium(images={"A1_full_image": image(FULL, systems, scale_factors=[2])}))
    np.testing.assert_allclose(section.obsm["spatial"], XY)


def test_spots_are_joined_by_id_and_not_by_order(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(N_SPOTS)
    section = read(tmp_path, visium(shapes={"A1": circles().iloc[order]}))
    np.testing.assert_allclose(section.obsm["spatial"], XY)


IDENTIFIERS = {
    "numbers in both": (np.arange(1, N_SPOTS + 1), np.arange(1, N_SPOTS + 1)),
    "text in both": ([f"{i:04}" for i in range(N_SPOTS)], [f"{i:04}" for i in range(N_SPOTS)]),
    "text in the table": ([str(i) for i in range(1, N_SPOTS + 1)], np.arange(1, N_SPOTS + 1)),
    "text in the shapes": (np.arange(1, N_SPOTS + 1), [str(i) for i in range(1, N_SPOTS + 1)]),
}


@pytest.mark.parametrize(("ids", "index"), IDENTIFIERS.values(), ids=IDENTIFIERS)
def test_ids_and_names_may_look_like_numbers(tmp_path: Path, ids: Any, index: Any) -> None:
    order = np.random.default_rng(3).permutation(N_SPOTS)
    shapes = circles().set_axis(pd.Index(index)).iloc[order]
    numbered = table(ids=ids)
    numbered.obs_names, numbered.var_names = ([str(i) for i in range(1, n + 1)] for n in (N_SPOTS, N_GENES))
    section = read(tmp_path, visium(shapes={"A1": shapes}, tables={"table": numbered}))
    np.testing.assert_allclose(section.obsm["spatial"], XY)
    assert section.obs_names.tolist() == [str(i) for i in range(1, N_SPOTS + 1)]
    np.testing.assert_array_equal(section[["1", "10"], ["3"]].X.toarray(), COUNTS[[0, 9], 2:3])


def test_raw_with_all_genes_is_taken(tmp_path: Path) -> None:
    whole = table()
    whole.raw = whole
    section = read(tmp_path, visium(tables={"table": whole[:, [7, 2]].copy()}))
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    assert section.uns["section"]["counts_from"] == "raw.X, the full matrix of 12 genes; X holds 2 of them"


def test_binarised_counts_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, visium(tables={"table": table(x=csr_matrix((COUNTS > 0).astype(np.float32)))}))
    assert "X of A1.zarr holds no number above 1: it looks binarised" in caplog.text


def test_a_fault_of_ours_is_no_damaged_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reader(write(tmp_path, visium()))
    slide = found.open_slide()
    monkeypatch.setattr("dask.array.Array.compute", lambda self: None)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        slide.read(0, 0, 9, 9)
    monkeypatch.undo()
    monkeypatch.setattr("spatialdata.read_zarr", lambda folder: None)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        found.read()


def test_spots_without_a_shape_are_counted(tmp_path: Path) -> None:
    section = read(tmp_path, visium(shapes={"A1": circles().iloc[3:]}))
    assert section.uns["section"]["n_unmatched"] == 3
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[3:])
    np.testing.assert_allclose(section.obsm["spatial"], XY[3:])


@pytest.mark.parametrize(
    "systems", [{SAME: Identity()}, {SAME: Identity(), SHRUNK: Scale([0.1, 0.1], axes=("x", "y"))}]
)
@pytest.mark.parametrize("pyramid", [None, [2, 2]])
def test_the_slide_holds_the_pixels_of_the_first_level(
    tmp_path: Path, pyramid: list[int] | None, systems: dict[str, Any]
) -> None:
    data = visium(images={"A1_full_image": image(FULL, systems, scale_factors=pyramid, chunks=(3, 64, 64))})
    slide = reader(write(tmp_path, data)).open_slide()
    assert slide.shape == (ROWS, COLUMNS)
    window, n_padded = slide.read(50, 40, 100, 70)
    np.testing.assert_array_equal(window, np.moveaxis(FULL, 0, -1)[40:110, 50:150])
    assert n_padded == 0
    assert isinstance(slide.pixels.array, da.Array)


def test_channels_are_taken_by_name(tmp_path: Path) -> None:
    images = {"A1_full_image": image(FULL[::-1], c_coords=["b", "g", "r"])}
    slide = reader(write(tmp_path, visium(images=images))).open_slide()
    np.testing.assert_array_equal(slide.read(0, 0, 9, 9)[0], np.moveaxis(FULL, 0, -1)[:9, :9])


def test_the_fingerprint_is_of_the_pixels(tmp_path: Path) -> None:
    changed = FULL.copy()
    changed[0, ROWS // 2, COLUMNS // 2] ^= 1
    texts = [
        reader(write(tmp_path, visium(images={"A1_full_image": image(pixels)}), name)).open_slide().fingerprint
        for name, pixels in (("one.zarr", FULL), ("two.zarr", FULL.copy()), ("three.zarr", changed))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_without_a_telling_name_the_largest_image_is_taken(tmp_path: Path) -> None:
    images = {"overview": image(SMALL), "he": image(FULL), "huge_cytassist_image": image(np.tile(FULL, (1, 2, 2)))}
    assert reader(write(tmp_path, visium(images=images))).open_slide().name == "he"


def test_a_named_image_wins(tmp_path: Path) -> None:
    path = tmp_path / "scan.png"
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(path)
    store = write(tmp_path, visium(images={"A1_hires_image": image(SMALL, {SHRUNK: Identity()})}))
    found = reader(store, image=path)
    assert found.open_slide().shape == (50, 60)
    np.testing.assert_allclose(found.read().obsm["spatial"], XY)


# what the shapes are


def hd(*sizes: int) -> SpatialData:
    names = {size: f"A1_square_{size:03}um" for size in sizes}
    return SpatialData(
        images={"A1_full_image": image(FULL)},
        shapes={name: squares(2.0 * size) for size, name in names.items()},
        tables={f"square_{size:03}um": table(name) for size, name in names.items()},
    )


@pytest.mark.parametrize("bin_um", [8, 16])
def test_bins_of_visium_hd_are_chosen_by_size(tmp_path: Path, bin_um: int) -> None:
    facts = read(tmp_path, hd(8, 16), bin_um=bin_um).uns["section"]
    assert (facts["lattice"], facts["pitch_um"], facts["spot_diameter_um"]) == ("square", bin_um, bin_um)
    assert facts["mpp"] == pytest.approx(0.5)


def test_bins_are_not_chosen_for_the_user(tmp_path: Path) -> None:
    path = write(tmp_path, hd(8, 16))
    with pytest.raises(InputError, match="2 tables.*square_008um, square_016um.*bin_um=16"):
        reader(path).read()
    with pytest.raises(InputError, match="bins of 8 um, 16 um.*bins of 2 um"):
        reader(path, bin_um=2).read()


@pytest.mark.parametrize("shapes", [circles(radius=11.0), squares(20.0)], ids=["55 um", "squares"])
def test_widths_of_another_meaning_state_no_scale(tmp_path: Path, shapes: Any) -> None:
    assert "mpp" not in read(tmp_path, visium(shapes={"A1": shapes})).uns["section"]


def two_sections() -> SpatialData:
    systems = {"A1": {"A1": Identity()}, "A2": {"A2": Identity()}}
    return SpatialData(
        images={"A1_full_image": image(FULL, systems["A1"]), "A2_full_image": image(FULL[:, :220], systems["A2"])},
        shapes={"A1": circles(systems=systems["A1"]), "A2": circles(XY + 7, systems=systems["A2"])},
        tables={"A1": table("A1"), "A2": table("A2", x=csr_matrix(COUNTS + 1))},
    )


def test_a_section_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    found = reader(write(tmp_path, two_sections()), "A2")
    np.testing.assert_array_equal(found.read().X.toarray(), COUNTS + 1)
    np.testing.assert_allclose(found.read().obsm["spatial"], XY + 7)
    assert found.open_slide().shape == (220, COLUMNS)


def test_regions_of_one_table_are_chosen_by_name(tmp_path: Path) -> None:
    joint = table()
    joint.obs["region"] = pd.Categorical(np.where(np.arange(N_SPOTS) < 10, "A1", "A2"))
    del joint.uns["spatialdata_attrs"]
    joint = TableModel.parse(joint, region=["A1", "A2"], region_key="region", instance_key="spot_id")
    shapes = {"A1": circles(), "A2": circles(XY + 7)}
    path = write(tmp_path, visium(shapes=shapes, tables={"table": joint}))
    section = reader(path, "A2").read()
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[10:])
    np.testing.assert_allclose(section.obsm["spatial"], XY[10:] + 7)
    with pytest.raises(InputError, match="2 regions.*A1, A2"):
        reader(path, "B1").read()


# defects


def thumbnails_only() -> SpatialData:
    return visium(images={"A1_hires_image": image(SMALL), "A1_lowres_image": image(SMALL[:, ::2, ::2])})


def elsewhere() -> SpatialData:
    return visium(images={"A1_full_image": image(FULL, {"other": Identity()})})


def disagreeing() -> SpatialData:
    systems = {SAME: Identity(), SHRUNK: Scale([0.3, 0.3], axes=("x", "y"))}
    return visium(images={"A1_full_image": image(FULL, systems)})


def normalised() -> SpatialData:
    noise = np.random.default_rng(4).random((N_SPOTS, N_GENES))
    return visium(tables={"table": table(x=csr_matrix(noise))})


def prediction() -> SpatialData:
    return visium(tables={"table": table(spamcaf="{}")})


def no_table() -> SpatialData:
    return visium(tables={})


def labels_only() -> SpatialData:
    labels = {"cells": Labels2DModel.parse(np.zeros((ROWS, COLUMNS), np.int32), dims=("y", "x"))}
    return visium(labels=labels, shapes={}, tables={"table": table("cells")})


def other_ids() -> SpatialData:
    return visium(tables={"table": table(ids=np.arange(N_SPOTS) + 1000)})


DEFECTS = {
    thumbnails_only: "A1_hires_image, A1_lowres_image.*thumbnails.*image=<file>",
    elsewhere: "none of full resolution in place of A1",
    disagreeing: "coordinate systems global, downscaled_hires of A1.zarr that place spots .* px apart",
    normalised: "no raw counts in A1.zarr",
    prediction: "a prediction of spamcaf",
    no_table: "tables none and shapes A1",
    labels_only: "tables table and shapes none",
    other_ids: "no spot in common in A1.zarr: 1000 in the table, 0 in the shapes",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("make", "message"), DEFECTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_defects_are_named(tmp_path: Path, make: Callable[[], SpatialData], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, make())


NO_SLIDES = {
    "16 bit": {"A1_full_image": image(FULL.astype(np.uint16))},
    "two channels": {"A1_full_image": image(FULL[:2])},
    "fluorescence": {"A1_full_image": image(FULL, c_coords=["DAPI", "CD45", "actin"])},
    "thumbnail": {"A1_hires_image": image(SMALL)},
}


@pytest.mark.parametrize("images", NO_SLIDES.values(), ids=NO_SLIDES)
def test_what_is_no_slide_is_refused(tmp_path: Path, images: dict[str, Any]) -> None:
    found = reader(write(tmp_path, visium(images=images)))
    with pytest.raises(InputError, match="H&E image"):
        found.open_slide()


def chunks_of(store: Path, element: str) -> list[Path]:
    return [p for p in sorted((store / element).rglob("*")) if p.is_file() and p.suffix != ".json"]


def damaged_counts(store: Path) -> None:
    for path in chunks_of(store, "tables/table/X/data"):
        path.write_bytes(b"nothing")


def missing_counts(store: Path) -> None:
    chunks_of(store, "tables/table/X/data")[0].unlink()


def missing_genes(store: Path) -> None:
    chunks_of(store, "tables/table/X/indices")[0].unlink()


def damaged_shapes(store: Path) -> None:
    (store / "shapes/A1/shapes.parquet").write_bytes(b"nothing")


def missing_shapes(store: Path) -> None:
    shutil.rmtree(store / "shapes/A1")


def pickled_objects(store: Path) -> None:
    (store / "tables/table/obsm/evil").mkdir()
    record = {"zarr_format": 2, "filters": [{"id": "pickle", "protocol": 5}]}
    (store / "tables/table/obsm/evil/.zarray").write_text(json.dumps(record))


DAMAGES = [damaged_counts, missing_counts, missing_genes, damaged_shapes, missing_shapes, pickled_objects]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_store_is_an_input_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = write(tmp_path, visium())
    damage(store)
    with pytest.raises(InputError, match="A1.zarr"):
        reader(store).read()


def test_a_damaged_place_of_the_image_is_named(tmp_path: Path) -> None:
    store = write(tmp_path, visium(images={"A1_full_image": image(FULL, chunks=(3, 64, 64))}))
    slide = reader(store).open_slide()
    chunks_of(store, "images/A1_full_image")[-1].write_bytes(b"nothing")
    assert slide.read(0, 0, 20, 20)[0].shape == (20, 20, 3)
    with pytest.raises(InputError, match=r"A1_full_image is damaged near pixel \(190, 220\)"):
        slide.read(190, 220, 10, 10)


def test_a_gap_in_the_image_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = write(tmp_path, visium(images={"A1_full_image": image(FULL, chunks=(3, 64, 64))}))
    reader(store).open_slide()
    assert "chunks" not in caplog.text
    chunks_of(store, "images/A1_full_image")[0].unlink()
    reader(store).open_slide()
    assert "1 of 16 chunks of" in caplog.text


# finding


def test_the_store_of_the_sections_name_comes_first(tmp_path: Path) -> None:
    for name in ("A1.zarr", "B1.zarr"):
        write(tmp_path, visium(), name)
    (tmp_path / "features.zarr").mkdir()
    assert reader(tmp_path, "B1").path == tmp_path / "B1.zarr"
    assert reader(tmp_path / "A1.zarr", "C1").path == tmp_path / "A1.zarr"
    with pytest.raises(InputError, match="2 SpatialData stores in .*A1.zarr, B1.zarr"):
        find(SectionQuery(tmp_path, "C1"))


def test_other_zarr_folders_are_of_another_layout(tmp_path: Path) -> None:
    import zarr

    zarr.create_array(tmp_path / "A1.zarr", shape=(3,), dtype="f4")
    assert find(SectionQuery(tmp_path, "A1")) is None
    assert find(SectionQuery(tmp_path / "A1.zarr", "A1")) is None

"""Bins of Visium HD read the same wherever the folder is named; a bin size is never guessed; every defect is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.readers import legacy_st, visium_hd
from spamcaf.readers import visium as space_ranger
from spamcaf.readers.files import SectionQuery, SectionReader
from spamcaf.readers.visium_files import bin_size
from spamcaf.sections.lattice import fit_lattice

MPP, SIDE, GENES = 0.25, 5, 4
SHAPE = (60, 70)
COUNTS = np.random.default_rng(0).poisson(2.0, (SIDE * SIDE, GENES))
COUNTS[:, 0] += 1
Edit = Callable[[Path], object]


def barcodes(bin_um: int) -> list[str]:
    return [f"s_{bin_um:03d}um_{row:05d}_{column:05d}-1" for row in range(SIDE) for column in range(SIDE)]


def positions(bin_um: int) -> pd.DataFrame:
    """One bin more than in the matrix, off the tissue; the array turned by a little, as they are."""
    row, column = np.divmod(np.arange(SIDE * SIDE + 1), SIDE)
    pitch_px = bin_um / MPP
    return pd.DataFrame(
        {
            "barcode": [*barcodes(bin_um), "s_none-1"],
            "in_tissue": (np.arange(SIDE * SIDE + 1) < SIDE * SIDE).astype(int),
            "array_row": row,
            "array_col": column,
            "pxl_row_in_fullres": 100 + pitch_px * (row * 0.999 + column * 0.045),
            "pxl_col_in_fullres": 900 + pitch_px * (column * 0.999 - row * 0.045),
        }
    )


def write_h5(path: Path, bin_um: int, order: list[int] | None = None) -> None:
    order = list(range(len(COUNTS))) if order is None else order
    by_bin = csr_matrix(COUNTS[order])
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes(bin_um), "S")[order]
        matrix["data"], matrix["indices"], matrix["indptr"] = by_bin.data, by_bin.indices, by_bin.indptr
        matrix["shape"] = np.array([GENES, len(COUNTS)])
        for name, start in (("id", "ENSG"), ("name", "G")):
            matrix[f"features/{name}"] = np.array([f"{start}{i}" for i in range(GENES)], "S")
        matrix["features/feature_type"] = np.array(["Gene Expression"] * GENES, "S")


def write_bins(folder: Path, bin_um: int) -> None:
    (folder / "spatial").mkdir(parents=True)
    write_h5(folder / "filtered_feature_bc_matrix.h5", bin_um)
    positions(bin_um).to_parquet(folder / "spatial/tissue_positions.parquet")
    factors = {"spot_diameter_fullres": bin_um / MPP, "bin_size_um": float(bin_um), "microns_per_pixel": MPP}
    scales = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.01, "regist_target_img_scalef": 0.1}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors | scales))
    Image.fromarray(np.full((9, 12, 3), 200, np.uint8)).save(folder / "spatial/tissue_hires_image.png")


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    folder = tmp_path / "S1/outs"
    for bin_um in (2, 8, 16):
        write_bins(folder / f"binned_outputs/square_{bin_um:03d}um", bin_um)
    (folder / "spatial").mkdir()
    (folder / "feature_slice.h5").write_bytes(b"")
    return folder


def find(root: Path, bin_um: int | None = 16, image: Path | None = None) -> SectionReader:
    reader = visium_hd.find(SectionQuery(root, "S1", image, bin_um))
    assert reader is not None
    assert reader.kind == "Visium HD"
    return reader


def bins_of(outs: Path, bin_um: int = 16) -> Path:
    return outs / f"binned_outputs/square_{bin_um:03d}um"


def require_same(section: AnnData, bin_um: int = 16) -> None:
    where = positions(bin_um).set_index("barcode").loc[barcodes(bin_um)]
    assert section.obs_names.tolist() == barcodes(bin_um)
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    assert section.X.dtype == np.int32
    where_px = where[["pxl_col_in_fullres", "pxl_row_in_fullres"]]
    np.testing.assert_allclose(section.obsm["spatial"], where_px, rtol=1e-12)
    columns = ["in_tissue", "array_row", "array_col"]
    np.testing.assert_array_equal(section.obs[columns], where[columns])
    expected = {"name": "S1", "lattice": "square", "pitch_um": bin_um, "spot_diameter_um": bin_um, "n_unmatched": 0}
    facts = dict(section.uns["section"])
    assert facts.pop("mpp", MPP) == pytest.approx(MPP)  # left to the lattice where the file does not state it
    off = positions(bin_um).set_index("barcode").query("in_tissue == 0").index.difference(section.obs_names)
    np.testing.assert_allclose(np.sort(facts.pop("off_tissue_px"), axis=0), np.sort(where_of(bin_um, off), axis=0))
    assert facts == expected


def where_of(bin_um: int, names: object) -> NDArray[np.float64]:
    return positions(bin_um).set_index("barcode").loc[names, ["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()


def test_the_stated_micrometres_per_pixel_are_a_fact(outs: Path) -> None:
    assert find(outs).read().uns["section"]["mpp"] == MPP


@pytest.mark.parametrize("bin_um", [2, 8, 16])
def test_the_bin_size_that_was_chosen_is_read(outs: Path, bin_um: int) -> None:
    section = find(outs.parents[1], bin_um).read()
    require_same(section, bin_um)
    assert list(section.uns["spatial"]["S1"]["images"]) == ["hires"]
    lattice = fit_lattice(section.obsm["spatial"], section.obs[["array_col", "array_row"]].to_numpy(), "square")
    assert lattice.pitch_px == pytest.approx(bin_um / MPP, rel=1e-3)
    assert lattice.residual < 1e-9


PLACES: dict[str, Callable[[Path], Path]] = {
    "folder of sections": lambda o: o.parents[1],
    "above outs": lambda o: o.parent,
    "outs": lambda o: o,
    "binned_outputs": lambda o: o / "binned_outputs",
    "the bins themselves": bins_of,
    "the bins under another name": lambda o: bins_of(o).rename(o.parent / "coarse"),
    "bins in a folder of another name": lambda o: (o / "binned_outputs").rename(o.parents[1] / "bins"),
    "no outs between": lambda o: (o / "binned_outputs").rename(o.parent / "binned_outputs").parent,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_the_folder_may_be_named_at_any_depth(outs: Path, place: Callable[[Path], Path]) -> None:
    require_same(find(place(outs)).read())


def only_mtx(folder: Path) -> None:
    (folder / "filtered_feature_bc_matrix.h5").unlink()
    matrix = folder / "filtered_feature_bc_matrix"
    matrix.mkdir()
    mmwrite(matrix / "matrix.mtx", csr_matrix(COUNTS.T), field="integer")
    (matrix / "features.tsv").write_text("".join(f"ENSG{i}\tG{i}\tGene Expression\n" for i in range(GENES)))
    (matrix / "barcodes.tsv").write_text("\n".join(barcodes(16)) + "\n")


def as_csv(folder: Path) -> None:
    (folder / "spatial/tissue_positions.parquet").unlink()
    positions(16).to_csv(folder / "spatial/tissue_positions.csv", index=False)


def edit_scalefactors(folder: Path, **changes: object) -> None:
    path = folder / "spatial/scalefactors_json.json"
    kept = {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(kept))


VARIANTS: dict[str, Edit] = {
    "mtx folder": only_mtx,
    "text positions": as_csv,
    "rows in another order": lambda b: positions(16)[::-1].to_parquet(b / "spatial/tissue_positions.parquet"),
    "no micrometres per pixel": lambda b: edit_scalefactors(b, microns_per_pixel=None),
    "raw matrix beside it": lambda b: write_h5(b / "raw_feature_bc_matrix.h5", 16),
    "prefix": lambda b: (b / "filtered_feature_bc_matrix.h5").rename(b / "S1_filtered_feature_bc_matrix.h5"),
    "segmented cells beside it": lambda b: (b.parents[1] / "segmented_outputs/spatial").mkdir(parents=True),
    "the only bins there": lambda b: [shutil.rmtree(b.parent / f"square_{size}um") for size in ("002", "008")],
}


@pytest.mark.parametrize("edit", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_gives_the_same_section(outs: Path, edit: Edit) -> None:
    edit(bins_of(outs))
    require_same(find(outs.parents[1]).read())


def test_the_only_bin_size_is_taken(outs: Path) -> None:
    for size in ("002", "008"):
        shutil.rmtree(outs / f"binned_outputs/square_{size}um")
    require_same(find(outs.parents[1], bin_um=None).read())


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(SIDE * SIDE)))
def test_order_of_rows_does_not_matter(outs: Path, order: list[int]) -> None:
    write_h5(bins_of(outs) / "filtered_feature_bc_matrix.h5", 16, order)
    section = find(outs.parents[1]).read()
    assert section.obs_names.tolist() == [barcodes(16)[i] for i in order]
    require_same(section[barcodes(16)])


FOUND: dict[str, str] = {
    "beside the bins": "binned_outputs/square_016um/S1_tissue_image.tif",
    "beside binned_outputs": "Visium_HD_tissue_image.btf",
    "in binned_outputs": "binned_outputs/image.tif",
    "above outs": "../S1_tissue_image.tif",
    "above the section": "../../S1_full_image.tif",
}


@pytest.mark.parametrize("name", FOUND.values(), ids=FOUND)
def test_the_image_is_found(outs: Path, name: str) -> None:
    tifffile.imwrite(outs / name, np.full((*SHAPE, 3), 200, np.uint8), photometric="rgb")
    assert find(outs.parents[1]).open_slide().shape == SHAPE
    assert find(bins_of(outs), bin_um=None).open_slide().shape == SHAPE


def test_a_given_image_wins_and_none_is_an_error(outs: Path) -> None:
    with pytest.raises(InputError, match="no full-resolution image"):
        find(outs.parents[1]).open_slide()
    tifffile.imwrite(outs.parents[1] / "slide.tif", np.full((*SHAPE, 3), 200, np.uint8), photometric="rgb")
    assert find(outs.parents[1], image=outs.parents[1] / "slide.tif").open_slide().shape == SHAPE
    with pytest.raises(InputError, match="no image .*nowhere"):
        find(outs.parents[1], image=outs / "nowhere.tif").open_slide()


def without_bins(outs: Path) -> None:
    shutil.rmtree(outs / "binned_outputs")


def corrupt_barcodes(outs: Path) -> None:
    """Text that is no UTF-8, which pyarrow notices only when it leaves the file."""
    path = bins_of(outs) / "spatial/tissue_positions.parquet"
    positions(16).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b"s_016um_00001_00001-1", b"s_016\xffm_00001_00001-1"))


DEFECTS: dict[str, tuple[Edit, int | None, str]] = {
    "no bin size": (lambda o: None, None, r"Visium HD .*bins of 2, 8, 16 um.*--params section=S1,bin_um=16"),
    "no such bin size": (lambda o: None, 4, r"bins of 2, 8, 16 um, and none of 4 um"),
    "scale factors of other bins": (lambda o: edit_scalefactors(bins_of(o), bin_size_um=8.0), 16, "bins of 8 um"),
    "no bin size in the scale factors": (
        lambda o: edit_scalefactors(bins_of(o), bin_size_um=None), 16, "bins of unknown size",
    ),
    "no scale factors": (
        lambda o: (bins_of(o) / "spatial/scalefactors_json.json").unlink(), 16, "no scalefactors_json.json",
    ),
    "no matrix": (lambda o: (bins_of(o) / "filtered_feature_bc_matrix.h5").unlink(), 16, "0 filtered count matrices"),
    "only the raw matrix": (
        lambda o: (bins_of(o) / "filtered_feature_bc_matrix.h5").rename(bins_of(o) / "raw_feature_bc_matrix.h5"),
        16,
        "copy the filtered one",
    ),
    "no positions": (
        lambda o: (bins_of(o) / "spatial/tissue_positions.parquet").unlink(), 16, "no position file",
    ),
    "truncated parquet": (
        lambda o: (bins_of(o) / "spatial/tissue_positions.parquet").write_bytes(b"PAR1\0\0"), 16, "cannot be read",
    ),
    "corrupt parquet": (corrupt_barcodes, 16, "cannot be read"),
    "positions of other bins": (
        lambda o: positions(8).to_parquet(bins_of(o) / "spatial/tissue_positions.parquet"), 16, "no barcode in common",
    ),
    "missing coordinate": (
        lambda o: positions(16).assign(pxl_col_in_fullres=np.nan).to_parquet(
            bins_of(o) / "spatial/tissue_positions.parquet"
        ),
        16,
        "'nan' as pxl_col",
    ),
    "column missing": (
        lambda o: positions(16).drop(columns="array_col").to_parquet(bins_of(o) / "spatial/tissue_positions.parquet"),
        16,
        "also array_col",
    ),
    "bin twice": (
        lambda o: positions(16).iloc[[0, *range(25)]].to_parquet(bins_of(o) / "spatial/tissue_positions.parquet"),
        16,
        "twice",
    ),
    "cells only": (lambda o: (without_bins(o), (o / "segmented_outputs").mkdir()), 16, "without bins.*segmented"),
    "bins not fetched": (without_bins, 16, "without bins, but feature_slice.h5"),
    "bins still packed": (
        lambda o: (without_bins(o), (o / "S1_binned_outputs.tar.gz").write_bytes(b"")), 16, "unpack it",
    ),
    "binned_outputs empty": (lambda o: (without_bins(o), (o / "binned_outputs").mkdir()), 16, "without bins"),
    "Visium beside it": (
        lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", 8), 16, "of Visium HD and a count matrix of Visium",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "bin_um", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_is_named(outs: Path, edit: Edit, bin_um: int | None, message: str) -> None:
    edit(outs)
    with pytest.raises(InputError) as caught:
        find(outs.parents[1], bin_um).read()
    assert re.fullmatch(f"Found: .*{message}.*", str(caught.value), re.DOTALL), caught.value


def test_a_fault_of_ours_is_no_damage_of_the_scale_factors(outs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a library no longer knows an argument that it is called with."""
    folder = bins_of(outs).rename(outs / "coarse")
    assert bin_size(folder) == 16
    monkeypatch.setattr(json, "loads", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        bin_size(folder)


def test_the_image_called_as_the_section_wins(outs: Path) -> None:
    for number, name in enumerate(("S1.ome.tif", "S1_1.ome.tif", "S1_tissue_image.tif")):
        shape = (SHAPE[0] + number, SHAPE[1], 3)
        tifffile.imwrite(outs / name, np.full(shape, 200, np.uint8), photometric="rgb")
    assert find(outs.parents[1]).open_slide().shape == SHAPE


@pytest.mark.parametrize("name", ["cytassist_image.tif", "S1_cytassist_image.tif", "detected_tissue_image.tif"])
def test_a_derived_image_is_never_the_slide(outs: Path, name: str) -> None:
    tifffile.imwrite(outs / name, np.full((*SHAPE, 3), 200, np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=f"no full-resolution image .*CytAssist made {name}"):
        find(outs.parents[1]).open_slide()


def test_bins_of_another_size_are_refused(outs: Path) -> None:
    with pytest.raises(InputError, match="bins of 16 um, and none of 8 um"):
        find(bins_of(outs), bin_um=8)


def test_nobody_else_takes_it_and_it_takes_nothing_else(outs: Path, tmp_path: Path) -> None:
    for root in (outs.parents[1], outs / "binned_outputs", bins_of(outs)):
        assert space_ranger.find(SectionQuery(root, "S1", bin_um=16)) is None
        assert legacy_st.find(SectionQuery(root, "S1", bin_um=16)) is None
    (tmp_path / "S2/outs/spatial").mkdir(parents=True)
    assert visium_hd.find(SectionQuery(tmp_path, "S2")) is None
    assert visium_hd.find(SectionQuery(outs / "feature_slice.h5", "S1")) is None

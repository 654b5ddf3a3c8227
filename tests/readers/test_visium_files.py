"""Files of a Visium section: GEO deposits by their prefix, gzipped or not, and the full-resolution image."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.readers import visium as space_ranger
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.find import find_reader

SPOTS, GENES = 12, 3
A, B = "GSM7000001_A", "GSM7000002_B"
BARCODES = [f"{''.join('ACGT'[(i >> 2 * k) % 4] for k in range(8))}-1" for i in range(SPOTS)]
SEEDS = {A: 1, B: 2, "A": 3, "A_1": 4, "": 5}
"""What tells the samples apart: counts, coordinates, scale factors, thumbnails and images grow with it."""


def counts(seed: int) -> np.ndarray:
    return np.arange(SPOTS * GENES).reshape(SPOTS, GENES) % 5 + seed


def h5_bytes(seed: int) -> bytes:
    by_spot, buffer = csr_matrix(counts(seed)), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name in ("data", "indices", "indptr"):
            file[f"matrix/{name}"] = getattr(by_spot, name)
        file["matrix/barcodes"], file["matrix/shape"] = np.array(BARCODES, "S"), np.array([GENES, SPOTS])
        for name, start in (("id", "ENSG"), ("name", "G")):
            file[f"matrix/features/{name}"] = np.array([f"{start}{i}" for i in range(GENES)], "S")
    return buffer.getvalue()


def spatial_files(seed: int) -> dict[str, bytes]:
    row, column = np.divmod(np.arange(SPOTS), 4)
    table = pd.DataFrame({"barcode": BARCODES, "in_tissue": 1, "array_row": row, "array_col": 2 * column + row % 2})
    table = table.assign(pxl_row_in_fullres=row * 80 + seed, pxl_col_in_fullres=table["array_col"] * 50 + seed)
    factors = {"spot_diameter_fullres": 60.0 + seed, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.05}
    thumbnail = io.BytesIO()
    Image.fromarray(np.full((10, 10 + seed, 3), 200, np.uint8)).save(thumbnail, "PNG")
    return {
        "tissue_positions_list.csv": table.to_csv(index=False, header=False).encode(),
        "scalefactors_json.json": json.dumps(factors).encode(),
        "tissue_hires_image.png": thumbnail.getvalue(),
        "tissue_lowres_image.png": thumbnail.getvalue(),
    }


def write_image(path: Path, seed: int) -> None:
    tifffile.imwrite(path, np.full((40 + seed, 60, 3), 200, np.uint8), photometric="rgb")


def deposit(folder: Path, sample: str, *, mark: str = "_") -> None:
    """All files of a sample flat, those of `spatial` gzipped."""
    prefix = f"{sample}{mark}" if sample else ""
    (folder / f"{prefix}filtered_feature_bc_matrix.h5").write_bytes(h5_bytes(SEEDS[sample]))
    for name, content in spatial_files(SEEDS[sample]).items():
        (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(content))
    write_image(folder / f"{prefix}image.tif", SEEDS[sample])


def require_whole(folder: Path, section: str, sample: str) -> None:
    """Every file that is read is of the sample."""
    seed, reader = SEEDS[sample], find_reader(SectionQuery(folder, section))
    assert reader.kind == "Space Ranger"
    read = reader.read()
    np.testing.assert_array_equal(read.X.toarray(), counts(seed))
    assert read.obsm["spatial"].min() == seed
    record = read.uns["spatial"][section]
    assert record["scalefactors"]["spot_diameter_fullres"] == 60 + seed
    assert {name: image.shape[1] for name, image in record["images"].items()} == dict.fromkeys(
        ("hires", "lowres"), 10 + seed
    )
    assert reader.open_slide().shape == (40 + seed, 60)


@pytest.fixture
def geo(tmp_path: Path) -> Path:
    for sample in (A, B):
        deposit(tmp_path, sample)
    return tmp_path


@pytest.mark.parametrize(
    ("section", "sample"), [(A, A), (B, B), ("A", A), ("B", B), ("GSM7000001", A), ("GSM7000002", B)]
)
def test_a_sample_is_read_by_its_prefix_or_what_is_clear_of_it(geo: Path, section: str, sample: str) -> None:
    require_whole(geo, section, sample)


def move(folder: Path, pattern: str, place: str, strip: str = "") -> None:
    (folder / place).mkdir(exist_ok=True)
    for path in [*folder.glob(f"{A}_{pattern}*")]:
        if path.is_file():
            path.rename(folder / place / path.name.removeprefix(strip))


def unpack(folder: Path, pattern: str = "*.gz") -> None:
    for path in folder.glob(pattern):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def flat_mtx(folder: Path, suffix: str, names: str = f"{A}_") -> None:
    """The three files of a Matrix Market folder, flat."""
    (folder / f"{A}_filtered_feature_bc_matrix.h5").unlink()
    matrix = io.BytesIO()
    mmwrite(matrix, csr_matrix(counts(SEEDS[A]).T), field="integer")
    texts = {
        "matrix.mtx": matrix.getvalue(),
        "barcodes.tsv": ("\n".join(BARCODES) + "\n").encode(),
        "features.tsv": "".join(f"ENSG{i}\tG{i}\tGene Expression\n" for i in range(GENES)).encode(),
    }
    for name, content in texts.items():
        (folder / f"{names}{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)


def rename(folder: Path, old: str, new: str) -> None:
    for path in [*folder.glob(f"{old}*")]:
        path.rename(folder / path.name.replace(old, new, 1))


Edit = Callable[[Path], object]
VARIANTS: dict[str, Edit] = {
    "nothing gzipped": unpack,
    "only the thumbnails gzipped": lambda g: [unpack(g, f"*{name}*.gz") for name in ("positions", "scalefactors")],
    "spatial files in spatial": lambda g: [move(g, name, "spatial") for name in ("tissue_", "scalefactors")],
    "spatial files in a folder of the sample": lambda g: [
        move(g, name, f"{A}_spatial", f"{A}_") for name in ("tissue_", "scalefactors")
    ],
    "spatial files named after the folder": lambda g: [
        rename(g, f"{A}_{name}", f"{A}_spatial_{name}") for name in ("tissue_", "scalefactors")
    ],
    "matrix called with another mark": lambda g: rename(g, f"{A}_filtered", f"{A}.filtered"),
    "mtx flat, gzipped": lambda g: flat_mtx(g, ".gz"),
    "mtx flat, plain": lambda g: flat_mtx(g, ""),
    "mtx flat, named after the folder": lambda g: flat_mtx(g, ".gz", f"{A}_filtered_feature_bc_matrix_"),
    "mtx in a folder": lambda g: (
        (g / f"{A}_filtered_feature_bc_matrix").mkdir(), flat_mtx(g, ".gz", f"{A}_filtered_feature_bc_matrix/"),
    ),
    "mtx beside the raw one": lambda g: (
        flat_mtx(g, ".gz"), (g / f"{A}_raw_matrix.mtx.gz").touch(), (g / f"{A}_raw_feature_bc_matrix.h5").touch(),
    ),
    "gz in name only": lambda g: [
        p.write_bytes(gzip.decompress(p.read_bytes())) for p in g.glob("*positions*.gz")
    ],
    "in a folder of its own": lambda g: move(g, "", A),
    "spatial unpacked into a folder of the sample": lambda g: (
        (g / A).mkdir(), [move(g, name, f"{A}/spatial", f"{A}_") for name in ("tissue_", "scalefactors", "image")],
        [p.rename(g / A / f"{A}_image.tif") for p in (g / A / "spatial").glob("image.tif")],
    ),
    "alone": lambda g: [p.unlink() for p in g.glob(f"{B}*")],
    "image without the accession number": lambda g: (g / f"{A}_image.tif").rename(g / "A_image.tif"),
    "other images of Space Ranger": lambda g: [
        write_image(g / f"{A}_{name}", 9)
        for name in ("detected_tissue_image.tif", "aligned_fiducials.tif", "cytassist_image.tif", "spatial_hires_1.tif")
    ],
    "a sample whose name goes on": lambda g: [
        (g / p.name.replace(B, f"{A}2")).write_bytes(p.read_bytes()) for p in g.glob(f"{B}*")
    ],
    "the sample of a second run": lambda g: [
        (g / p.name.replace(B, f"{A}_2")).write_bytes(p.read_bytes()) for p in g.glob(f"{B}*")
    ],
}  # fmt: skip


@pytest.mark.parametrize("edit", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_gives_the_same_sample(geo: Path, edit: Edit) -> None:
    edit(geo)
    require_whole(geo, A, A)


@pytest.mark.parametrize("section", ["A", "A_1"])
@pytest.mark.parametrize("mark", ["_", "-", "."])
def test_the_sample_called_exactly_as_the_section_wins(tmp_path: Path, section: str, mark: str) -> None:
    for sample in ("A", "A_1"):
        deposit(tmp_path, sample, mark=mark)
    require_whole(tmp_path, section, section)


def test_one_sample_without_a_prefix_is_read_whatever_the_section_is_called(tmp_path: Path) -> None:
    deposit(tmp_path, "")
    require_whole(tmp_path, "S1", "")


def test_the_files_taken_are_logged(geo: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        require_whole(geo, "A", A)
    assert f"counts of {A}_filtered_feature_bc_matrix.h5" in caplog.text
    assert f"the full-resolution image is {geo / f'{A}_image.tif'}" in caplog.text


def test_spatial_files_that_may_be_of_either_sample_are_warned_of(geo: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("tissue_", "scalefactors"):
        move(geo, name, "spatial", f"{A}_")
    require_whole(geo, A, A)
    assert "spatial/tissue_positions_list.csv.gz lies beside matrices of several samples" in caplog.text


def zip_matrix(folder: Path) -> None:
    path = folder / f"{A}_filtered_feature_bc_matrix.h5"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def gz_in_truth(folder: Path) -> None:
    path = folder / f"{A}_filtered_feature_bc_matrix.h5"
    path.write_bytes(gzip.compress(path.read_bytes()))


def cut(folder: Path, name: str) -> None:
    path = folder / f"{A}_{name}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DEFECTS: dict[str, tuple[Edit, str, str]] = {
    "no sample of the section": (
        lambda g: None, "C", rf"2 filtered count .*{A}_filtered.*{B}_filtered.*'C' is not clear.*section={A} or {B}",
    ),
    "part of a name": (lambda g: None, "GSM700000", "2 filtered count matrices"),
    "h5 gzipped": (zip_matrix, A, rf"{A}_filtered_feature_bc_matrix.h5.gz is packed.*gunzip {A}_filtered"),
    "h5 gzipped, not by its name": (gz_in_truth, A, rf"{A}_filtered_feature_bc_matrix.h5 is packed.*gunzip {A}"),
    "matrix in an archive": (
        lambda g: (g / f"{A}_filtered_feature_bc_matrix.h5").rename(g / f"{A}_filtered_feature_bc_matrix.tar.gz"),
        A,
        rf"{A}_filtered_feature_bc_matrix.tar.gz is packed.*tar -xf {A}_filtered",
    ),
    "only positions of the section": (
        lambda g: (g / f"{A}_filtered_feature_bc_matrix.h5").unlink(),
        A,
        rf"positions but no count matrix of section '{A}' in .*{B}_filtered.*section={B}",
    ),
    "no positions of the sample": (
        lambda g: (g / f"{A}_tissue_positions_list.csv.gz").unlink(),
        A,
        rf"no position file of {A} in .*, but {A}_filtered.*{A}_scalefactors_json.json.gz",
    ),
    "no scale factors of the sample": (
        lambda g: (g / f"{A}_scalefactors_json.json.gz").unlink(),
        A,
        rf"no scalefactors_json.json of {A} in .*but {A}_",
    ),
    "flat mtx without its barcodes": (
        lambda g: (flat_mtx(g, ".gz"), (g / f"{A}_barcodes.tsv.gz").unlink()), A, rf"no {A}_barcodes.tsv in .*but {A}_",
    ),
    "cut scale factors": (lambda g: cut(g, "scalefactors_json.json.gz"), A, rf"{A}_scalefactors_json.json.gz cannot"),
    "cut positions": (lambda g: cut(g, "tissue_positions_list.csv.gz"), A, rf"{A}_tissue_positions_list.csv.gz cannot"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "section", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_is_named(geo: Path, edit: Edit, section: str, message: str) -> None:
    edit(geo)
    with pytest.raises(InputError) as caught:
        find_reader(SectionQuery(geo, section)).read()
    assert re.fullmatch(f"Found: .*{message}.*", str(caught.value), re.DOTALL), caught.value


def gz_image(folder: Path) -> None:
    path = folder / f"{A}_image.tif"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (gz_image, rf"{A}_image.tif.gz is packed.*gunzip {A}_image.tif.gz.*image="),
        (lambda g: (g / f"{A}_image.tif").unlink(), rf"no full-resolution image of section '{A}'.*{B}_image.tif"),
        (lambda g: (g / f"{A}_image.tif").rename(g / "slide_image.tif"), "no full-resolution image .*slide_image.tif"),
    ],
    ids=["gzipped", "only another sample's", "whose is not clear"],
)
def test_the_image_of_another_sample_is_never_taken(geo: Path, edit: Edit, message: str) -> None:
    edit(geo)
    reader = space_ranger.find(SectionQuery(geo, A))
    assert reader is not None
    with pytest.raises(InputError, match=message):
        reader.open_slide()


def test_a_cut_thumbnail_only_warns(geo: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut(geo, "tissue_hires_image.png.gz")
    read = find_reader(SectionQuery(geo, A)).read()
    assert list(read.uns["spatial"][A]["images"]) == ["lowres"]
    assert f"{A}_tissue_hires_image.png.gz cannot be read" in caplog.text


SHAPE = (40, 60)


def lay(folder: Path, *names: str) -> None:
    """Images of which only the first has the expected shape."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((SHAPE[0] + number, SHAPE[1], 3), 200, np.uint8)
        if path.suffix in {".tif", ".btf", ".TIF"}:
            tifffile.imwrite(path, image, photometric="rgb")
        else:
            imagecodecs.imwrite(str(path), image)


def shape_found(root: Path, image: Path | None = None) -> tuple[int, int]:
    reader = space_ranger.find(SectionQuery(root, "S1", image))
    assert reader is not None
    return reader.open_slide().shape


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lay(tmp_path / "S1/outs/spatial", "thumbnail/tissue_hires_image.png")
    return tmp_path


FOUND = {
    "full image": ["S1/outs/S1_full_image.tif"],
    "10x's name": ["S1/outs/V1_Breast_Cancer_image.tif"],
    "only the section's name": ["S1/outs/S1.tif"],
    "upper case": ["S1/outs/S1.TIF"],
    "JPEG": ["S1/outs/image.jpg"],
    "BigTIFF suffix": ["S1/outs/S1_tissue_image.btf"],
    "beside outs": ["S1/histology_image.tif"],
    "thumbnails beside it": ["S1/outs/image.tif", "S1/outs/tissue_hires_image.png", "S1/outs/tissue_lowres_image.png"],
    "CytAssist's own image beside it": ["S1/outs/CytAssist_tissue_image.tif", "S1/outs/CytAssist_image.tif"],
    "above the section, by name": ["S1_full_image.tif", "S10_full_image.tif", "S2_full_image.tif"],
    "OME-TIFF": ["S1/outs/V1_image.ome.tif"],
    "twin of macOS": ["S1/outs/image.tif", "S1/outs/._image.tif"],
    "inner before outer": ["S1/outs/image.tif", "S1/image.tif"],
    "exactly the section": ["S1/outs/S1.tif", "S1/outs/S1_1.tif", "S1/outs/S1_tissue_image.tif"],
    "exactly the section, OME-TIFF": ["S1/outs/S1.ome.tif", "S1/outs/S1_1.ome.tif", "S1/outs/S1_image.tif"],
    "exactly the section, above": ["S1.tif", "S1_1.tif", "S10.tif"],
    "its image, above": ["S1_image.tif", "S1_1_image.tif", "S1_1_tissue_image.tif"],
    "Space Ranger's other images beside it": [
        "S1/outs/S1_scan.tif",
        "S1/outs/detected_tissue_image.jpg",
        "S1/outs/aligned_tissue_image.jpg",
        "S1/outs/aligned_fiducials.jpg",
        "S1/outs/S1_cytassist_image.tif",
        "S1/outs/S1_tissue_hires_image_2.png",
    ],
    "above, beside another section's": ["S1_scan.tif", "S1_1_scan.tif", "S1_1/outs/spatial/notes.png"],
}


@pytest.mark.parametrize(
    "name",
    [
        "tissue_hires_image.png",
        "S1_tissue_lowres_image.png",
        "aligned_fiducials.jpg",
        "S1_aligned_tissue_image.jpg",
        "detected_tissue_image.jpg",
        "detected_tissue_image_S1.jpg",
        "cytassist_image.tif",
        "S1_cytassist_image.tif",
        "S1_hires.png",
    ],
)
@pytest.mark.parametrize("folder", ["S1/outs", "S1/outs/spatial", "S1", "."])
def test_a_derived_image_is_never_the_slide(root: Path, folder: str, name: str) -> None:
    lay(root, f"{folder}/{name}")
    with pytest.raises(InputError, match="no full-resolution image of section 'S1'") as caught:
        shape_found(root)
    is_looked_at = folder in {"S1/outs", "S1"} or (folder == "." and name.startswith("S1"))
    assert (f"CytAssist made {name}: " in str(caught.value).replace(", which", ": ")) == is_looked_at


def test_a_flat_spatial_folder_holds_no_slide(tmp_path: Path) -> None:
    """All files of `spatial` beside the matrix, as some deposits have them."""
    names = ["aligned_fiducials.jpg", "detected_tissue_image.jpg", "cytassist_image.tif", "tissue_hires_image.png"]
    lay(tmp_path / "S1", *names)
    (tmp_path / "S1/filtered_feature_bc_matrix.h5").touch()
    with pytest.raises(InputError, match="no full-resolution image .*aligned_fiducials.jpg, cytassist_image.tif"):
        shape_found(tmp_path)
    lay(tmp_path / "S1", "slide_image.tif")
    assert shape_found(tmp_path) == SHAPE


@pytest.mark.parametrize("names", FOUND.values(), ids=FOUND)
def test_the_image_is_found(root: Path, names: list[str]) -> None:
    lay(root, *names)
    assert shape_found(root) == SHAPE


def test_above_a_flat_section_only_its_own_image_counts(tmp_path: Path) -> None:
    lay(tmp_path, "S1_image.tif", "S10_image.tif", "S2_image.tif", "S1/spatial/tissue_hires_image.png")
    assert shape_found(tmp_path) == SHAPE


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["S1/outs/a_image.tif", "S1/outs/b_image.tif"], "2 images .*a_image.tif, b_image.tif"),
        (["S1/outs/tissue_hires_image.png"], "no full-resolution image .*tissue_hires_image.png"),
        (["S10_image.tif"], "no full-resolution image"),
        (["S1/outs/notes.txt.png"], "no full-resolution image .*not called after section 'S1': notes.txt.png"),
        (["S1_1_scan.tif", "S1_1/outs/spatial/notes.png"], "no full-resolution image"),
        (["S1_a.tif", "S1_b.tif"], "2 images .*S1_a.tif, S1_b.tif"),
    ],
)
def test_none_or_several_images_are_named(root: Path, names: list[str], message: str) -> None:
    lay(root, *names)
    with pytest.raises(InputError, match=message):
        shape_found(root)


def test_a_given_image_wins(root: Path, tmp_path: Path) -> None:
    lay(root, "elsewhere/slide.tif", "S1/outs/a_image.tif", "S1/outs/b_image.tif")
    assert shape_found(root, tmp_path / "elsewhere/slide.tif") == SHAPE


def test_a_given_image_that_is_missing_is_an_error(root: Path) -> None:
    lay(root, "S1/outs/image.tif")
    with pytest.raises(InputError, match=r"no image .*nowhere\.tif"):
        shape_found(root, root / "nowhere.tif")

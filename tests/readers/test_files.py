"""Which image belongs to a section, by name; damage and foreign content of files are refused."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import tifffile
from kedro.io import DatasetError

from spamcaf.datasets.stored import AnnDataDataset
from spamcaf.errors import InputError
from spamcaf.readers.files import image_beside, image_stem, reading
from spamcaf.readers.hdf5 import refuse_hostile_hdf5

DERIVED = [
    "tissue_hires_image.png",
    "tissue_lowres_image.png",
    "Tissue_Hires_Image.PNG",
    "GSM1_A_tissue_hires_image.png",
    "A1_hires.png",
    "lowres.jpg",
    "A1_spatial_hires_2.tif",
    "A1_tissue_hires_image.png.gz",
    "aligned_fiducials.jpg",
    "A1_aligned_fiducials.jpg",
    "aligned_tissue_image.jpg",
    "detected_tissue_image.jpg",
    "GSM1_A_detected_tissue_image.jpg",
    "detected_tissue_image_A1.jpg",
    "detected_tissue_image.jpg.gz",
    "cytassist_image.tiff",
    "A1_cytassist_image.tif",
    "A1_CytAssist_image.tif",
]
"""What Space Ranger draws, and what the CytAssist takes: with a prefix, with a suffix, gzipped."""


def lay(folder: Path, *names: str) -> Path:
    """Images that are only names, and an h5ad file."""
    for name in ("A1.h5ad", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder / "A1.h5ad"


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_image_is_never_the_slide(tmp_path: Path, name: str) -> None:
    path = lay(tmp_path, name)
    with pytest.raises(InputError, match=rf"no image of A1\.h5ad.*by name Space Ranger or CytAssist made {name}"):
        image_beside(path, "A1", is_only_file=True)
    lay(tmp_path, "slide.tif")
    assert image_beside(path, "A1", is_only_file=True).name == "slide.tif"


@pytest.mark.parametrize("name", ["shires.tif", "A1_thiresia.tif", "CytAssist_FFPE_tissue_image.tif"])
def test_a_name_that_only_looks_alike_is_no_derived_image(tmp_path: Path, name: str) -> None:
    assert image_beside(lay(tmp_path, name), "A1", is_only_file=True).name == name


WINNERS: dict[str, tuple[str, list[str]]] = {
    "exact": ("A1.tif", ["A1_1.tif", "A1_tissue_image.tif", "A10.tif", "slide.tif"]),
    "exact, OME-TIFF": ("A1.ome.tif", ["A1_1.ome.tif", "A1_2.tif"]),
    "exact, in capitals": ("A1.OME.TIF", ["A1_1.tif"]),
    "its full image": ("A1_full_image.tif", ["A1_image.tif", "A1_1_image.tif", "A1_1_full_image.tif"]),
    "its image": ("A1_image.tif", ["A1_1_image.tif", "A1_1_tissue_image.tif", "A1_2.tif"]),
    "its stain": ("A1_HE.tif", ["A1_1_HE.tif"]),
    "its image, another mark": ("A1-image.tif", ["A1-1-image.tif"]),
    "begins so": ("A1_scan.tif", ["A10_scan.tif", "other.tif"]),
    "plain before gzipped": ("A1.tif", ["A1.tif.gz"]),
}


@pytest.mark.parametrize(("winner", "others"), WINNERS.values(), ids=WINNERS)
def test_the_image_called_as_the_section_wins(tmp_path: Path, winner: str, others: list[str]) -> None:
    path = lay(tmp_path, winner, *others)
    assert image_beside(path, "A1", is_only_file=True).name == winner
    assert image_beside(path, "A1", is_only_file=False).name == winner


def test_the_section_comes_before_the_file(tmp_path: Path) -> None:
    """Of several sections in one file, each has an image of its own."""
    path = lay(tmp_path, "T.tif", "A1.tif")
    assert image_beside(path, "T", is_only_file=True).name == "T.tif"


def test_an_image_of_a_longer_named_file_is_not_taken(tmp_path: Path) -> None:
    path = lay(tmp_path, "A1_2.h5ad", "A1_2_scan.tif")
    with pytest.raises(InputError, match=r"no image of A1\.h5ad.*not called after section 'A1': A1_2_scan\.tif"):
        image_beside(path, "A1", is_only_file=False)
    lay(tmp_path, "A1_scan.tif")
    assert image_beside(path, "A1", is_only_file=False).name == "A1_scan.tif"
    assert image_beside(tmp_path / "A1_2.h5ad", "A1_2", is_only_file=False).name == "A1_2_scan.tif"


def test_several_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 images that may belong to A1\.h5ad: A1_a\.tif, A1_b\.tif.*image="):
        image_beside(lay(tmp_path, "A1_a.tif", "A1_b.tif"), "A1", is_only_file=True)


@pytest.mark.parametrize("name", ["A1.tif.gz", "A1.ome.tif.gz", "slide.jpg.gz"])
def test_a_gzipped_image_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    path = lay(tmp_path, name)
    with pytest.raises(InputError, match=rf"{name} is packed.*gunzip {name}.*image="):
        image_beside(path, "A1", is_only_file=True)


def test_the_image_taken_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lay(tmp_path, "A1_scan.tif")
    with caplog.at_level(logging.INFO):
        image_beside(path, "A1", is_only_file=True)
    assert f"the full-resolution image is {tmp_path / 'A1_scan.tif'}" in caplog.text


@pytest.mark.parametrize("name", ["A.tif", "A.ome.tif", "A.OME.TIFF", "A.tif.gz", "A.ome.tif.gz", "A.svs"])
def test_the_stem_is_the_name_without_its_endings(name: str) -> None:
    assert image_stem(Path(name)) == "A"


def test_damage_is_kept_apart_from_a_fault_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "counts.mtx"
    with pytest.raises(InputError, match=r"counts\.mtx cannot be read \(cut off\).*a whole matrix"):
        with reading(path, "a whole matrix"):
            raise EOFError("cut off.\nsecond line")
    with pytest.raises(InputError, match=r"counts\.mtx cannot be read"):
        with reading(path, "a whole matrix"):
            gzip.decompress(b"\x1f\x8b\x08")
    with pytest.raises(InputError, match="Found: first"):
        with reading(path, "a whole matrix"):
            raise InputError("first.", "second.", "third.")
    with pytest.raises(InputError, match=r"counts\.mtx, for whose content there is not enough memory"):
        with reading(path, "a whole matrix"):
            raise MemoryError


def test_the_image_is_opened_from_the_file_that_was_named(tmp_path: Path) -> None:
    """The name that later errors show is that of the file taken."""
    from spamcaf.slides.open import open_slide

    path = lay(tmp_path, "A1.ome.tif")
    tifffile.imwrite(tmp_path / "A1.ome.tif", np.full((30, 50, 3), 200, np.uint8), photometric="rgb")
    assert open_slide(image_beside(path, "A1", is_only_file=True)).name == "A1.ome.tif"


def external_link(file: h5py.File, secret: Path) -> None:
    file["stolen"] = h5py.ExternalLink(str(secret), "/x")


def soft_link(file: h5py.File, secret: Path) -> None:
    file["stolen"] = h5py.SoftLink("/X")


def external_storage(file: h5py.File, secret: Path) -> None:
    file["uns"].create_dataset("stolen", shape=(4,), dtype="u1", external=[(str(secret), 0, 4)])


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    reader = h5py.VirtualLayout(shape=(4,), dtype="u1")
    reader[:] = h5py.VirtualSource(str(secret), "x", shape=(4,))
    file["uns"].create_virtual_dataset("stolen", reader)


@pytest.fixture
def stored(tmp_path: Path) -> AnnDataDataset:
    dataset = AnnDataDataset(filepath=str(tmp_path / "section.h5ad"))
    dataset.save(anndata.AnnData(np.ones((3, 2), np.float32), uns={"a": 1}))
    return dataset


@pytest.mark.parametrize("attack", [external_link, soft_link, external_storage, virtual_dataset])
def test_foreign_content_is_refused(
    stored: AnnDataDataset, tmp_path: Path, attack: Callable[[h5py.File, Path], None]
) -> None:
    (tmp_path / "secret").write_bytes(b"key!")
    with h5py.File(tmp_path / "section.h5ad", "a") as file:
        attack(file, tmp_path / "secret")
    with pytest.raises(DatasetError, match="another file"):
        stored.load()


def test_a_plain_file_is_read(stored: AnnDataDataset) -> None:
    assert stored.load().shape == (3, 2)


def test_a_group_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        group = file.create_group("a")
        group["again"] = group
    with pytest.raises(ValueError, match="'a/again' is a second name of another group"):
        refuse_hostile_hdf5(tmp_path / "loop.h5")

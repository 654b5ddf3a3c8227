"""The full-resolution image is found beside a Space Ranger folder, or the candidates are named."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from spamcaf.errors import InputError
from spamcaf.readers import visium as space_ranger
from spamcaf.readers.files import SectionQuery

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
    "Space Ranger's other pictures beside it": [
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
def test_a_derived_picture_is_never_the_slide(root: Path, folder: str, name: str) -> None:
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

"""An image alone is a section that was never measured."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spamcaf.errors import InputError
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.find import find_reader


def lay(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((30, 50, 3), 200, np.uint8), photometric="rgb")
    return path


@pytest.mark.parametrize("name", ["S1.tif", "S1_HE.tif", "S1/whatever.tif"])
def test_the_image_is_found_and_holds_no_counts(tmp_path: Path, name: str) -> None:
    lay(tmp_path / name)
    lay(tmp_path / "S10.tif")
    reader = find_reader(SectionQuery(tmp_path, "S1"))
    assert reader.open_slide().shape == (30, 50)
    with pytest.raises(InputError, match="--pipeline transfer"):
        reader.read()


def test_a_named_image_and_a_root_that_is_one(tmp_path: Path) -> None:
    image = lay(tmp_path / "a/b.tif")
    assert find_reader(SectionQuery(tmp_path, "S1", image=image)).open_slide().name == "b.tif"
    assert find_reader(SectionQuery(image, "S1")).open_slide().name == "b.tif"


@pytest.mark.parametrize("folder", ["", "S1/"])
@pytest.mark.parametrize(
    "names", [("S1.tif", "S1_1.tif"), ("S1.ome.tif", "S1_2.ome.tif"), ("S1_HE.tif", "S1_1_HE.tif")]
)
def test_the_image_called_as_the_section_wins(tmp_path: Path, folder: str, names: tuple[str, ...]) -> None:
    for name in names:
        lay(tmp_path / folder / name)
    assert find_reader(SectionQuery(tmp_path, "S1")).open_slide().name == names[0]


@pytest.mark.parametrize(
    "name", ["S1_tissue_hires_image.tif", "S1/detected_tissue_image.tif", "S1_cytassist_image.tif", "S1_lowres.tif"]
)
def test_a_derived_picture_is_no_section(tmp_path: Path, name: str) -> None:
    lay(tmp_path / name)
    with pytest.raises(InputError, match=rf"no full-resolution image of section 'S1'.* made {Path(name).name}.*image="):
        find_reader(SectionQuery(tmp_path, "S1"))
    lay(tmp_path / "S1.tif")
    assert find_reader(SectionQuery(tmp_path, "S1")).open_slide().name == "S1.tif"


@pytest.mark.parametrize("name", ["S1.tif.gz", "S1/slide.tif.gz"])
def test_a_gzipped_image_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name} is packed.*gunzip {Path(name).name}"):
        find_reader(SectionQuery(tmp_path, "S1"))
    lay(tmp_path / name.removesuffix(".gz"))
    assert find_reader(SectionQuery(tmp_path, "S1")).open_slide().shape == (30, 50)


def test_the_image_taken_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lay(tmp_path / "S1_scan.tif")
    with caplog.at_level(logging.INFO):
        find_reader(SectionQuery(tmp_path, "S1"))
    assert f"the full-resolution image is {path}" in caplog.text


def test_several_images_are_named(tmp_path: Path) -> None:
    lay(tmp_path / "S1/a.tif")
    lay(tmp_path / "S1/b.tif")
    with pytest.raises(InputError, match=r"2 images of section 'S1': a\.tif, b\.tif"):
        find_reader(SectionQuery(tmp_path, "S1"))

"""An image alone is a section that was never measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from spamcaf.datasets.layouts.find import find_layout
from spamcaf.datasets.layouts.layout import Wanted
from spamcaf.errors import InputError


def lay(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((30, 50, 3), 200, np.uint8), photometric="rgb")
    return path


@pytest.mark.parametrize("name", ["S1.tif", "S1_HE.tif", "S1/whatever.tif"])
def test_the_image_is_found_and_holds_no_counts(tmp_path: Path, name: str) -> None:
    lay(tmp_path / name)
    lay(tmp_path / "S10.tif")
    layout = find_layout(Wanted(tmp_path, "S1"))
    assert layout.open_slide().shape == (30, 50)
    with pytest.raises(InputError, match="--pipeline transfer"):
        layout.read()


def test_a_named_image_and_a_root_that_is_one(tmp_path: Path) -> None:
    image = lay(tmp_path / "a/b.tif")
    assert find_layout(Wanted(tmp_path, "S1", image=image)).open_slide().name == "b.tif"
    assert find_layout(Wanted(image, "S1")).open_slide().name == "b.tif"


def test_several_images_are_named(tmp_path: Path) -> None:
    lay(tmp_path / "S1/a.tif")
    lay(tmp_path / "S1/b.tif")
    with pytest.raises(InputError, match=r"2 images of section 'S1': a\.tif, b\.tif"):
        find_layout(Wanted(tmp_path, "S1"))

"""Without OpenSlide only the slides that need it fail, with the step that installs it."""

from __future__ import annotations

import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from spamcaf.errors import InputError
from spamcaf.slides import open
from spamcaf.slides.open import open_slide

TILED = {"photometric": "rgb", "tile": (64, 64)}


@pytest.fixture
def _no_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open, "is_installed", lambda: False)


def write_svs(path: Path, image: NDArray[np.uint8]) -> None:
    description = "Aperio Image Library v12.0.15 \n|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, image, **TILED, compression="jpeg", description=description, metadata=None)


@pytest.mark.usefixtures("_no_openslide")
@pytest.mark.parametrize("name", ["a.svs", "a.tif"])
def test_a_slide_of_a_scanner_names_the_step(tmp_path: Path, image: NDArray[np.uint8], name: str) -> None:
    write_svs(tmp_path / name, image)
    with pytest.raises(InputError, match="pip install openslide-python openslide-bin"):
        open_slide(tmp_path / name)


@pytest.mark.usefixtures("_no_openslide")
def test_a_folder_slide_names_the_step(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    (tmp_path / "a.mrxs").write_bytes(imagecodecs.jpeg_encode(image))
    with pytest.raises(InputError, match="pip install openslide"):
        open_slide(tmp_path / "a.mrxs")


@pytest.mark.usefixtures("_no_openslide")
def test_everything_else_is_read(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    tifffile.imwrite(tmp_path / "a.svs", image, **TILED)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    for name in ("a.svs", "a.png"):
        np.testing.assert_array_equal(open_slide(tmp_path / name).read(0, 0, 320, 200)[0], image)


def test_a_pipe_in_the_place_of_a_part_of_a_slide_is_refused(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """OpenSlide would wait for it for ever."""
    parts = "NoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=a.jpg\nMapFile=map.jpg\nSourceLens=20\n"
    sizes = "PhysicalWidth=160000\nPhysicalHeight=100000\nPhysicalMacroWidth=1\nPhysicalMacroHeight=1\n"
    (tmp_path / "a.vms").write_text(f"[Virtual Microscope Specimen]\n{parts}{sizes}")
    for name in ("a.jpg", "map.jpg"):
        Image.fromarray(image).save(tmp_path / name, restart_marker_rows=1)
    assert open_slide(tmp_path / "a.vms").shape == image.shape[:2]
    (tmp_path / "a.jpg").unlink()
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg, which is a pipe"):
        open_slide(tmp_path / "a.vms")


def test_windows_beyond_the_border_are_padded(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    write_svs(tmp_path / "a.svs", image)
    window, n_padded = open_slide(tmp_path / "a.svs").read(-10, 150, 50, 60)
    assert n_padded == 60 * 10 + 10 * 40
    assert (window[:, :10] == 255).all() and (window[50:] == 255).all()
    assert np.abs(window[:50, 10:].astype(int) - image[150:, :40]).mean() < 2


def test_what_was_not_scanned_is_white(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    def tiles() -> object:
        for top in range(0, 192, 64):
            for left in range(0, 320, 64):
                hole = (top, left) == (64, 128)
                yield None if hole else np.ascontiguousarray(image[top : top + 64, left : left + 64])

    how = {"shape": (192, 320, 3), "dtype": np.uint8, "compression": "jpeg", "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", tiles(), **TILED, **how, description="Aperio Image Library v12 \n|MPP = 0.5")
    window, _ = open_slide(tmp_path / "a.svs").read(128, 64, 64, 64)
    assert (window == 255).all()

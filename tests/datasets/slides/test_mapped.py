"""What cannot be read in windows is decoded once to the disk, and reads the same from there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.slides import chunks, tiff, whole
from spamcaf.slides.chunks import MappedPixels
from spamcaf.slides.open import open_slide

Picture = NDArray[np.uint8]
Write = Callable[[Path, Picture], object]

LARGE: dict[str, Write] = {
    "one deflated strip": lambda p, i: tifffile.imwrite(
        p, i, photometric="rgb", rowsperstrip=200, compression="zlib", predictor=True
    ),
    "two strips of LZW": lambda p, i: tifffile.imwrite(p, i, photometric="rgb", rowsperstrip=130, compression="lzw"),
    "separate planes": lambda p, i: tifffile.imwrite(
        p,
        np.ascontiguousarray(np.moveaxis(i, 2, 0)),
        photometric="rgb",
        planarconfig="separate",
        rowsperstrip=200,
        compression="zlib",
    ),
    "PNG": lambda p, i: p.write_bytes(imagecodecs.png_encode(i)),
}


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiff, "CACHE_BYTES", 10_000)
    monkeypatch.setattr(whole, "IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("write", LARGE.values(), ids=LARGE)
def test_windows_come_from_a_temporary_file(tmp_path: Path, image: Picture, write: Write) -> None:
    write(tmp_path / "a", image)
    slide = open_slide(tmp_path / "a")
    assert isinstance(slide.pixels.pixel_array, MappedPixels)
    assert "decoded once into a temporary file" in "; ".join(slide.notes)
    np.testing.assert_array_equal(slide.read(0, 0, 320, 200)[0], image)
    np.testing.assert_array_equal(slide.read(33, 44, 100, 50)[0], image[44:94, 33:133])


@pytest.mark.skipif(os.name == "nt", reason="Windows names temporary files while they are open")
def test_the_temporary_file_has_no_name(tmp_path: Path, image: Picture) -> None:
    LARGE["PNG"](tmp_path / "a", image)
    slide = open_slide(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert slide.shape == (200, 320)


@pytest.mark.parametrize("write", LARGE.values(), ids=LARGE)
def test_too_little_room_is_said_before_anything_is_decoded(
    tmp_path: Path, image: Picture, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", image)
    monkeypatch.setattr(chunks, "_free", lambda folder: 1000)
    with pytest.raises(InputError, match="Set TMPDIR"):
        open_slide(tmp_path / "a")


def test_a_damaged_large_image_is_an_input_error(tmp_path: Path, image: Picture) -> None:
    LARGE["two strips of LZW"](tmp_path / "a", image)
    with tifffile.TiffFile(tmp_path / "a") as file:
        begin, count = file.pages.first.dataoffsets[1], file.pages.first.databytecounts[1]
    content = bytearray((tmp_path / "a").read_bytes())
    content[begin : begin + count] = bytes(count)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="damaged in tile or strip 1"):
        open_slide(tmp_path / "a")

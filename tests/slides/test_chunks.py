"""Chunks are decoded once, within a bound and from several threads; what has no windows is decoded to the disk."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.slides import chunks, tiff, whole
from spamcaf.slides.chunks import ChunkedPixels, Grid, MappedPixels, Plane
from spamcaf.slides.open import open_slide


class Stored:
    """An image cut into chunks of raw bytes, and a decoder that counts how often it decodes which."""

    def __init__(self, path: Path, image: NDArray[np.uint8], chunk: tuple[int, int]) -> None:
        rows, columns, self.channels = image.shape
        self.grid, self.path, self.decoded = Grid((rows, columns), chunk), path, Counter[int]()
        parts = []
        for index in range(self.grid.n_chunks):
            x, y = self.grid.corner(index)
            parts.append(np.ascontiguousarray(image[y : y + chunk[0], x : x + chunk[1]]))
        self.shapes = [part.shape for part in parts]
        self.counts = np.array([part.nbytes for part in parts], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        path.write_bytes(b"".join(part.tobytes() for part in parts))

    def decode(self, data: bytes, index: int) -> tuple[NDArray[np.uint8], None, None]:
        self.decoded[index] += 1
        return np.frombuffer(data, np.uint8).reshape(1, *self.shapes[index]), None, None

    def pixel_array(self, **changes: Any) -> ChunkedPixels:
        plane = Plane(**{"offsets": self.offsets, "counts": self.counts, "first": 0, "channels": 3} | changes)
        return ChunkedPixels(self.path, self.grid, [plane], self.decode, np.dtype(np.uint8))


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_window_of_any_division_is_right(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    rows, columns, high, wide = (data.draw(st.integers(1, 40)) for _ in range(4))
    image = np.random.default_rng(rows * 41 + columns).integers(0, 256, (rows, columns, 3), np.uint8)
    pixel_array = Stored(tmp_path_factory.mktemp("chunks") / "a", image, (high, wide)).pixel_array()
    assert pixel_array.shape == image.shape
    x0, y0 = data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, rows - 1))
    width, height = data.draw(st.integers(1, columns - x0)), data.draw(st.integers(1, rows - y0))
    expected = image[y0 : y0 + height, x0 : x0 + width]
    np.testing.assert_array_equal(pixel_array.read(x0, y0, width, height), expected)


def test_neighbouring_windows_decode_a_strip_once(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    stored = Stored(tmp_path / "a", noise, (5, 70))
    pixel_array = stored.pixel_array()
    for x0 in range(0, 70, 10):
        pixel_array.read(x0, 0, 10, 20)
    assert stored.decoded == {0: 1, 1: 1, 2: 1, 3: 1}


def test_no_more_bytes_are_kept_than_allowed(
    tmp_path: Path, noise: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "STRIP_CACHE_BYTES", 3 * 5 * 70 * 3)
    stored = Stored(tmp_path / "a", noise, (5, 70))
    pixel_array = stored.pixel_array()
    for y0 in (0, 5, 10, 0, 15, 5, 0):
        pixel_array.read(0, y0, 70, 5)
    # 0, 5 and 10 fill it; 15 pushes out 5, the least recent; 5 pushes out 10
    assert stored.decoded == {0: 1, 1: 2, 2: 1, 3: 1}


def test_many_threads_read_the_same_as_one(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    stored = Stored(tmp_path / "a", noise, (5, 70))
    pixel_array = stored.pixel_array()
    corners = [(int(x), int(y)) for x, y in np.random.default_rng(1).integers(0, (60, 40), (400, 2))]
    with ThreadPoolExecutor(8) as executor:
        windows = list(executor.map(lambda at: pixel_array.read(*at, 10, 10), corners))
    for (x, y), window in zip(corners, windows, strict=True):
        np.testing.assert_array_equal(window, noise[y : y + 10, x : x + 10])
    assert set(stored.decoded.values()) == {1}


def test_reading_without_pread_is_the_same(
    tmp_path: Path, noise: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(chunks.os, "pread")
    pixel_array = Stored(tmp_path / "a", noise, (20, 30)).pixel_array()
    with ThreadPoolExecutor(4) as executor:
        for window in executor.map(lambda _: pixel_array.read(0, 0, 70, 50), range(8)):
            np.testing.assert_array_equal(window, noise)


def test_a_chunk_without_bytes_is_white(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    stored = Stored(tmp_path / "a", noise, (20, 30))
    counts = stored.counts.copy()
    counts[4] = 0
    expected = noise.copy()
    expected[20:40, 30:60] = 255
    np.testing.assert_array_equal(stored.pixel_array(counts=counts).read(0, 0, 70, 50), expected)


def test_what_a_codec_raises_names_the_place(tmp_path: Path, noise: NDArray[np.uint8]) -> None:
    stored = Stored(tmp_path / "slide.tif", noise, (20, 30))
    counts = stored.counts.copy()
    counts[4] -= 1
    pixel_array = stored.pixel_array(counts=counts)
    pixel_array.read(0, 0, 30, 50)
    with pytest.raises(InputError, match=r"slide\.tif is damaged in tile or strip 4, at pixel \(30, 20\)"):
        pixel_array.read(0, 0, 70, 50)


Rgb = NDArray[np.uint8]
Write = Callable[[Path, Rgb], object]
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


@pytest.fixture
def _small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tiff, "CACHE_BYTES", 10_000)
    monkeypatch.setattr(whole, "IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("write", LARGE.values(), ids=LARGE)
@pytest.mark.usefixtures("_small_is_large")
def test_windows_come_from_a_temporary_file(tmp_path: Path, image: Rgb, write: Write) -> None:
    write(tmp_path / "a", image)
    slide = open_slide(tmp_path / "a")
    assert isinstance(slide.pixels.pixel_array, MappedPixels)
    assert "decoded once into a temporary file" in "; ".join(slide.notes)
    np.testing.assert_array_equal(slide.read(0, 0, 320, 200)[0], image)
    np.testing.assert_array_equal(slide.read(33, 44, 100, 50)[0], image[44:94, 33:133])


@pytest.mark.skipif(os.name == "nt", reason="Windows names temporary files while they are open")
@pytest.mark.usefixtures("_small_is_large")
def test_the_temporary_file_has_no_name(tmp_path: Path, image: Rgb) -> None:
    LARGE["PNG"](tmp_path / "a", image)
    slide = open_slide(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert slide.shape == (200, 320)


@pytest.mark.parametrize("write", LARGE.values(), ids=LARGE)
@pytest.mark.usefixtures("_small_is_large")
def test_too_little_room_is_reported_before_anything_is_decoded(
    tmp_path: Path, image: Rgb, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", image)
    monkeypatch.setattr(chunks, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="Set TMPDIR"):
        open_slide(tmp_path / "a")


@pytest.mark.usefixtures("_small_is_large")
def test_a_damaged_large_image_is_an_input_error(tmp_path: Path, image: Rgb) -> None:
    LARGE["two strips of LZW"](tmp_path / "a", image)
    with tifffile.TiffFile(tmp_path / "a") as file:
        begin, count = file.pages.first.dataoffsets[1], file.pages.first.databytecounts[1]
    content = bytearray((tmp_path / "a").read_bytes())
    content[begin : begin + count] = bytes(count)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="damaged in tile or strip 1"):
        open_slide(tmp_path / "a")

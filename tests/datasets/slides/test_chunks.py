"""Chunks are decoded once while windows move over them, within a bound, and from several threads at once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.slides import chunks
from spamcaf.slides.chunks import ChunkedPixels, Grid, Plane


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
    with ThreadPoolExecutor(8) as pool:
        windows = list(pool.map(lambda at: pixel_array.read(*at, 10, 10), corners))
    for (x, y), window in zip(corners, windows, strict=True):
        np.testing.assert_array_equal(window, noise[y : y + 10, x : x + 10])
    assert set(stored.decoded.values()) == {1}


def test_reading_without_pread_is_the_same(
    tmp_path: Path, noise: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(chunks.os, "pread")
    pixel_array = Stored(tmp_path / "a", noise, (20, 30)).pixel_array()
    with ThreadPoolExecutor(4) as pool:
        for window in pool.map(lambda _: pixel_array.read(0, 0, 70, 50), range(8)):
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

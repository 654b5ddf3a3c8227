"""Pixels of a file read in parts: strips and tiles decoded when needed, or memory-mapped where they lie plain."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from shutil import disk_usage
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError, is_fault_of_ours

GIB = 1 << 30
CACHE_BYTES = 128 << 20
"""Decoded strips and tiles that are kept: neighbouring windows share them."""
STRIP_CACHE_BYTES = 256 << 20
"""Strips are as wide as the image: one window touches as many as it is high, wide image or not."""
N_LOCKS = 32


class MappedPixels:
    """Samples that lie one after another in an open file, in `shape` by `axes`, a permutation of Y, X and S (channels).

    The file is mapped anew for each window: a lasting map would count every page ever touched as resident memory.
    """

    def __init__(self, file: BinaryIO, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], axes: str) -> None:
        self._file, self._offset, self._stored, self._stored_shape = file, offset, dtype, shape
        self._order = tuple(axes.index(axis) for axis in "YXS")
        rows, columns, channels = (shape[i] for i in self._order)
        self.shape, self.dtype = (rows, columns, channels), dtype.newbyteorder("=")
        weakref.finalize(self, file.close)

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return a copy of the window."""
        content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        stored: NDArray[Any] = np.ndarray(self._stored_shape, self._stored, content, self._offset)
        window = stored.transpose(self._order)[y0 : y0 + height, x0 : x0 + width]
        return window.astype(self.dtype, order="C")


def spool(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], write: Callable[[NDArray[Any]], object]
) -> tuple[MappedPixels, str]:
    """Decode an image, by `write`, into a temporary file that ends with the process; return its pixels and a note."""
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="spamcaf-"))  # noqa: SIM115  closed with the pixels
    try:
        _reserve(file, n_bytes)
    except OSError as error:
        file.close()
        folder = tempfile.gettempdir()
        free = disk_usage(folder).free / GIB
        raise InputError(
            f"{path.name} needs {n_bytes / GIB:.1f} GiB in {folder}, which has {free:.1f} GiB.",
            "room for the decoded image, which cannot be read in windows.",
            "Set TMPDIR to a larger disk, or convert the image to a tiled TIFF.",
        ) from error
    samples: NDArray[Any] = np.memmap(file, dtype, "r+", shape=shape)
    write(samples)
    return MappedPixels(file, 0, dtype, shape, "YXS"), f"decoded once into a temporary file of {n_bytes / GIB:.1f} GiB"


def _reserve(file: BinaryIO, n_bytes: int) -> None:
    """Claim the room now: a full disk ends a process that writes to mapped memory without any error."""
    if n_bytes > disk_usage(tempfile.gettempdir()).free:
        raise OSError("too little room")
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    file.truncate(n_bytes)


@dataclass(frozen=True)
class Plane:
    """Where the strips or tiles of some channels lie in the file, row by row.

    `offsets` and `counts` are int64 bytes, one per chunk; a chunk of 0 bytes was never written. `first` is the index
    of the first of them in its page, `decoding` what the page's decoder needs beside the bytes.
    """

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    first: int
    channels: int
    decoding: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """How an image of `shape` (rows, columns) is divided into chunks of `chunk` (rows, columns)."""

    shape: tuple[int, int]
    chunk: tuple[int, int]

    @property
    def across(self) -> int:
        """Chunks in a row."""
        return -(-self.shape[1] // self.chunk[1])

    @property
    def n_chunks(self) -> int:
        """Chunks in the image."""
        return self.across * -(-self.shape[0] // self.chunk[0])

    @property
    def is_striped(self) -> bool:
        """True where rows are stored whole."""
        return self.chunk[1] >= self.shape[1]

    def corner(self, index: int) -> tuple[int, int]:
        """Return the upper left pixel (x, y) of a chunk."""
        return index % self.across * self.chunk[1], index // self.across * self.chunk[0]

    def touched(self, x0: int, y0: int, width: int, height: int) -> Iterator[int]:
        """Yield the chunks that a window touches, row by row."""
        rows, columns = self.chunk
        for row in range(y0 // rows, -(-(y0 + height) // rows)):
            for column in range(x0 // columns, -(-(x0 + width) // columns)):
                yield row * self.across + column


class ChunkedPixels:
    """Samples in compressed strips or tiles. `decode(data, index, **decoding)` is that of a tifffile page."""

    def __init__(
        self, path: Path, grid: Grid, planes: list[Plane], decode: Callable[..., Any], dtype: np.dtype[Any]
    ) -> None:
        self.grid, self.dtype = grid, dtype
        self._n_planes, self._channels = len(planes), planes[0].channels
        self.shape = (*grid.shape, self._n_planes * self._channels)
        self.chunk_bytes = int(np.prod(grid.chunk)) * self._channels * dtype.itemsize  # decoded
        file = path.open("rb", buffering=0)
        weakref.finalize(self, file.close)
        self._locks = [threading.Lock() for _ in range(N_LOCKS)]
        # all chunks are of one size: a bound on their number is a bound on bytes
        n_kept = (STRIP_CACHE_BYTES if grid.is_striped else CACHE_BYTES) // self.chunk_bytes
        self._decoded = lru_cache(max(n_kept, 1))(_Decoder(path, file, grid, planes, decode))

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return the window; chunks that were never written are white."""
        window = np.empty((height, width, self.shape[2]), self.dtype)
        self._read_into(window, x0, y0)
        return window

    def read_all(self, samples: NDArray[Any]) -> None:
        """Fill an array of the image's shape, a row of chunks at a time."""
        step = self.grid.chunk[0]
        for top in range(0, self.grid.shape[0], step):
            self._read_into(samples[top : top + step], 0, top)

    def _read_into(self, window: NDArray[Any], x0: int, y0: int) -> None:
        height, width = window.shape[:2]
        for plane, index in product(range(self._n_planes), self.grid.touched(x0, y0, width, height)):
            # threads that need the same chunk wait for the first instead of decoding it again
            with self._locks[index % N_LOCKS]:
                chunk = self._decoded(plane, index)
            x, y = self.grid.corner(index)
            rows, columns = self.grid.chunk if chunk is None else chunk.shape[:2]
            left, right = max(x, x0), min(x + columns, x0 + width)
            top, bottom = max(y, y0), min(y + rows, y0 + height)
            white = np.iinfo(self.dtype).max
            channels = slice(plane * self._channels, (plane + 1) * self._channels)
            window[top - y0 : bottom - y0, left - x0 : right - x0, channels] = (
                white if chunk is None else chunk[top - y : bottom - y, left - x : right - x]
            )


@dataclass(frozen=True)
class _Decoder:
    """Decodes one chunk, None if never written; as a method its cache would be a cycle that keeps the file open."""

    path: Path
    file: BinaryIO
    grid: Grid
    planes: list[Plane]
    decode: Callable[..., Any]
    seeking: Any = field(default_factory=threading.Lock)

    def __call__(self, plane: int, index: int) -> NDArray[Any] | None:
        where = self.planes[plane]
        count = int(where.counts[index])
        if count == 0:
            return None
        data = self._bytes(int(where.offsets[index]), count)
        try:
            segment = self.decode(data, where.first + index, **where.decoding)[0]
        except Exception as error:  # a codec may fail in any way on damaged bytes
            if is_fault_of_ours(error):
                raise
            x, y = self.grid.corner(index)
            raise InputError(
                f"{self.path.name} is damaged in tile or strip {index}, at pixel ({x}, {y}): {error}.",
                "an image that can be decoded everywhere.",
                "Fetch or export the image again.",
            ) from error
        return np.asarray(segment[0])

    def _bytes(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):  # no shared position: safe among threads, and in forked workers
            return os.pread(self.file.fileno(), count, offset)
        with self.seeking:
            self.file.seek(offset)
            return self.file.read(count)

"""Images that lie uncompressed on the disk: in the file itself, or decoded once into a temporary one."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

GIB = 1 << 30


class MappedRaster:
    """Samples that lie one after another in an open file.

    `shape` and `axes` say how they lie there: `axes` is a permutation of Y, X and S (channels). The file is mapped
    anew for each window: a lasting map would count every page ever touched as resident memory.
    """

    def __init__(self, file: BinaryIO, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], axes: str) -> None:
        self._file, self._offset, self._stored, self._stored_shape = file, offset, dtype, shape
        self._order = tuple(axes.index(axis) for axis in "YXS")
        weakref.finalize(self, file.close)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, columns, channels)."""
        rows, columns, channels = (self._stored_shape[i] for i in self._order)
        return rows, columns, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """In the byte order of this machine."""
        return self._stored.newbyteorder("=")

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return a copy of the window."""
        content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        stored: NDArray[Any] = np.ndarray(self._stored_shape, self._stored, content, self._offset)
        window = stored.transpose(self._order)[y0 : y0 + height, x0 : x0 + width]
        return window.astype(self.dtype, order="C")


def spool(
    path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any], write: Callable[[NDArray[Any]], object]
) -> tuple[MappedRaster, str]:
    """Decode an image once into a temporary file that vanishes with the process; return it, and what to say of it.

    `write` fills the (row, column, channel) array that it is given.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="spamcaf-"))  # noqa: SIM115  the raster closes it
    try:
        _reserve(file, n_bytes)
    except OSError as error:
        file.close()
        folder = tempfile.gettempdir()
        raise InputError(
            f"{path.name} needs {n_bytes / GIB:.1f} GiB in {folder}, which has {_free(folder) / GIB:.1f} GiB.",
            "room for the decoded image, which cannot be read in windows.",
            "Set TMPDIR to a larger disk, or convert the image to a tiled TIFF.",
        ) from error
    samples: NDArray[Any] = np.memmap(file, dtype, "r+", shape=shape)
    write(samples)
    return MappedRaster(file, 0, dtype, shape, "YXS"), f"decoded once into a temporary file of {n_bytes / GIB:.1f} GiB"


def _reserve(file: BinaryIO, n_bytes: int) -> None:
    """Claim the room now: a full disk ends a process that writes to mapped memory without any error."""
    if n_bytes > _free(tempfile.gettempdir()):
        raise OSError("too little room")
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    file.truncate(n_bytes)


def _free(folder: str) -> int:
    return shutil.disk_usage(folder).free

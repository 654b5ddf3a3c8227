"""What the readers share: samples as the file has them, turned into RGB window by window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from spamcaf.datasets.slides.channels import Conversion
from spamcaf.errors import InputError
from spamcaf.histology.slide import Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Raster(Protocol):
    """The samples of an image as the file has them: (row, column, channel), uint8 or uint16.

    `read` may be called from several threads at once.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, columns, channels)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or uint16."""

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return the samples of a window that lies wholly inside the image; raise InputError where it is damaged."""


@dataclass(frozen=True)
class ArrayRaster:
    """An image that is decoded already."""

    samples: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, columns, channels)."""
        rows, columns, channels = self.samples.shape
        return rows, columns, channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """As decoded."""
        return self.samples.dtype

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return the window as a view."""
        return self.samples[y0 : y0 + height, x0 : x0 + width]


@dataclass(frozen=True)
class FilePixels:
    """The pixels of an image file, RGB uint8."""

    path: Path
    raster: Raster
    conversion: Conversion

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.raster.shape[:2]

    @cached_property
    def fingerprint(self) -> str:
        """See `Pixels`."""
        return fingerprint_of(self.path)

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the window; raise InputError naming the place when the file is damaged there."""
        return self.conversion.to_rgb(self.raster.read(x0, y0, width, height))


@dataclass(frozen=True)
class Opened:
    """An opened image: who reads it, what was decided or converted, and the micrometres per pixel that it states."""

    pixels: Pixels
    reader: str
    notes: tuple[str, ...] = ()
    mpp: float | None = None


END_BYTES, SAMPLE_BYTES, N_SAMPLES = 1 << 20, 1 << 14, 512
"""512 samples of 16 KB: one every 2 MB of a gigabyte."""


def fingerprint_of(path: Path) -> str:
    """Hash size, first and last megabyte, and samples between: a slide of gigabytes is not read whole.

    In a compressed file a change of pixels moves all that follows; in one that is not, a change of a few lines between
    two samples would not be noticed.
    """
    import hashlib

    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(size - END_BYTES, 0)
    with path.open("rb") as file:
        digest.update(file.read(END_BYTES))
        for i in range(1, N_SAMPLES):
            file.seek(i * last // N_SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
        file.seek(last)
        digest.update(file.read(END_BYTES))
    return digest.hexdigest()[:16]


def damaged(path: Path, what: object) -> InputError:
    """Return the error for a file that is not whole."""
    return InputError(f"{path.name} cannot be read ({what}).", "a whole image file.", "Fetch or export it again.")


def not_h_and_e(path: Path, what: str) -> InputError:
    """Return the error for a whole file whose channels are not red, green and blue."""
    return InputError(
        f"{path.name} is {what}.",
        "an H&E image in colour: red, green and blue of 8 or 16 bits.",
        "Export the image as 8-bit RGB; grayscale and fluorescence cannot be used.",
    )

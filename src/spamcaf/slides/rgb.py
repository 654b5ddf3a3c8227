"""From the samples of a file to RGB uint8, upright, window by window: depth, transparency, luma, orientation tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.histology.slide import GLASS, Pixels
from spamcaf.limits import require_regular

N_RGB = 3
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners really use in a file of 16."""
SAMPLES_ACROSS, SAMPLE_PX = 16, 64
BLOCK_PX = 1 << 20
"""Pixels converted at once, so that the temporaries stay small beside the window."""
END_BYTES, SAMPLE_BYTES, N_SAMPLES = 1 << 20, 1 << 14, 512
"""512 samples of 16 KB: one every 2 MB of a gigabyte."""


class Alpha(StrEnum):
    """The meaning of a fourth channel: NONE where there is none, or where it is not stated to be transparency."""

    NONE = "none"
    STRAIGHT = "straight"
    PREMULTIPLIED = "premultiplied"


@dataclass(frozen=True)
class Conversion:
    """How samples become RGB uint8.

    `white` is the sample value that becomes 255, `opaque` the one of full alpha; both are 255 for 8-bit samples.
    `is_ycbcr` marks samples that are luma and two chroma differences instead of colours.
    """

    alpha: Alpha = Alpha.NONE
    is_ycbcr: bool = False
    white: int = GLASS
    opaque: int = GLASS

    def to_rgb(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert (row, column, channel) samples to (row, column, 3)."""
        if samples.dtype == np.uint8 and self.alpha is Alpha.NONE and not self.is_ycbcr:
            return samples if samples.shape[2] == N_RGB else np.ascontiguousarray(samples[..., :N_RGB])
        height, width = samples.shape[:2]
        rgb = np.empty((height, width, N_RGB), np.uint8)
        step = max(BLOCK_PX // width, 1)
        for top in range(0, height, step):
            rgb[top : top + step] = self._convert(samples[top : top + step])
        return rgb

    def _convert(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        colours: NDArray[np.uint8] = _to_8_bits(samples[..., :N_RGB], self.white)
        if self.is_ycbcr:
            from PIL import Image

            luma = Image.frombytes("YCbCr", colours.shape[1::-1], colours.tobytes())
            colours = np.asarray(luma.convert("RGB"))
        if self.alpha is Alpha.NONE:
            return colours
        opacity = _to_8_bits(samples[..., N_RGB:], self.opaque)
        if opacity.min() == GLASS:
            return colours
        alpha = opacity.astype(np.float32) / GLASS
        seen = colours if self.alpha is Alpha.PREMULTIPLIED else colours * alpha
        return np.clip(np.rint(seen + GLASS * (1 - alpha)), 0, GLASS).astype(np.uint8)


def _to_8_bits(samples: NDArray[Any], white: int) -> NDArray[np.uint8]:
    if samples.dtype == np.uint8:
        return samples
    return np.minimum((samples.astype(np.uint32) * GLASS + white // 2) // white, GLASS).astype(np.uint8)


class PixelArray(Protocol):
    """The samples of a file, (row, column, channel), uint8 or uint16; `read` may be called from several threads."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return the samples of a window that lies wholly inside the image; raise InputError where it is damaged."""


class DecodedPixels:
    """An image that is decoded already."""

    def __init__(self, samples: NDArray[Any]) -> None:
        rows, columns, channels = samples.shape
        self._samples, self.shape, self.dtype = samples, (rows, columns, channels), samples.dtype

    def read(self, x0: int, y0: int, width: int, height: int) -> NDArray[Any]:
        """Return the window as a view."""
        return self._samples[y0 : y0 + height, x0 : x0 + width]


def conversion_of(
    pixel_array: PixelArray, alpha: Alpha = Alpha.NONE, is_ycbcr: bool = False
) -> tuple[Conversion, list[str]]:
    """Return the conversion that samples need, and notes of it; the depth of 16-bit ones is measured over the image."""
    notes = [] if alpha is Alpha.NONE else ["transparency laid over white"]
    if alpha is Alpha.NONE and pixel_array.shape[2] > N_RGB:
        notes.append("its fourth channel, whose meaning it does not state, is ignored")
    notes += ["luma and chroma converted to RGB"] if is_ycbcr else []
    if pixel_array.dtype == np.uint8:
        return Conversion(alpha, is_ycbcr), notes
    brightest = _brightest(pixel_array)
    scales = [2**bits - 1 for bits in DEPTHS]
    largest = (int(part.max(initial=0)) for part in (brightest[:N_RGB], brightest[N_RGB:]))
    white, opaque = (next(scale for scale in scales if scale >= value) for value in largest)
    return Conversion(alpha, is_ycbcr, white, opaque), [f"16-bit values 0 to {white} rescaled to 0 to {GLASS}", *notes]


def _brightest(pixel_array: PixelArray) -> NDArray[Any]:
    """Return the largest value of each channel in windows spread evenly over the image."""
    rows, columns, channels = pixel_array.shape
    height, width = min(SAMPLE_PX, rows), min(SAMPLE_PX, columns)
    brightest = np.zeros(channels, pixel_array.dtype)
    for y0 in np.linspace(0, rows - height, SAMPLES_ACROSS).astype(int):
        for x0 in np.linspace(0, columns - width, SAMPLES_ACROSS).astype(int):
            brightest = np.maximum(brightest, pixel_array.read(int(x0), int(y0), width, height).max(axis=(0, 1)))
    return brightest


@dataclass(frozen=True)
class FilePixels:
    """The pixels of an image file, RGB uint8."""

    path: Path
    pixel_array: PixelArray
    conversion: Conversion

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.pixel_array.shape[:2]

    @cached_property
    def fingerprint(self) -> str:
        """See `Pixels`."""
        return fingerprint_of(self.path)

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the window; raise InputError naming the place when the file is damaged there."""
        return self.conversion.to_rgb(self.pixel_array.read(x0, y0, width, height))


@dataclass(frozen=True)
class Opened:
    """An opened image: its reader, notes of what was chosen or converted, and the micrometres per pixel it states."""

    pixels: Pixels
    reader: str
    notes: tuple[str, ...] = ()
    mpp: float | None = None


def fingerprint_of(path: Path) -> str:
    """Hash size, first and last megabyte, and samples between: a slide of gigabytes is not read whole.

    In a compressed file a change of pixels moves all that follows; in one that is not, a change of a few lines between
    two samples would not be noticed.
    """
    require_regular(path)
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


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises at a damaged image into InputError; a fault of ours stays what it is."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a decoder may fail in any way on damaged bytes
        if is_fault_of_ours(error):
            raise
        raise damaged(path, str(error) or type(error).__name__) from error


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


ORIENTATION, AS_STORED = 274, 1
"""The tag of TIFF and of EXIF, and its value for an image that is stored upright."""
EXIF_BEGIN = b"Exif\0\0"


@dataclass(frozen=True)
class Turn:
    """How an image becomes upright: rows and columns change places where `transposes`, then their orders reverse."""

    tag: int
    transposes: bool
    reverses_rows: bool
    reverses_columns: bool


_STEPS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
TURNS = {tag: Turn(tag, *map(bool, steps)) for tag, steps in _STEPS.items()}


@dataclass(frozen=True)
class TurnedPixels:
    """An image seen upright: each window is read where it is stored, then turned."""

    stored: Pixels
    turn: Turn

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the upright image."""
        rows, columns = self.stored.shape
        return (columns, rows) if self.turn.transposes else (rows, columns)

    @property
    def fingerprint(self) -> str:
        """The file's, and the turn: other pixels than those of a program that does not apply the tag."""
        return f"{self.stored.fingerprint}-turn{self.turn.tag}"

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a copy of the window of the upright image."""
        turn, (rows, columns) = self.turn, self.shape
        x = columns - x0 - width if turn.reverses_columns else x0
        y = rows - y0 - height if turn.reverses_rows else y0
        if turn.transposes:
            window = self.stored.crop(y, x, height, width).swapaxes(0, 1)
        else:
            window = self.stored.crop(x, y, width, height)
        # a copy: PyTorch takes no arrays whose order is reversed
        return window[:: -1 if turn.reverses_rows else 1, :: -1 if turn.reverses_columns else 1].copy()


def turn_of(tag: object) -> Turn | None:
    """Return the turn for the value of an orientation tag; None for an upright image and for a senseless value."""
    return TURNS.get(tag) if isinstance(tag, int) else None


def upright(pixels: Pixels, tag: object) -> tuple[Pixels, list[str]]:
    """Return an image upright, by the value of its orientation tag (None without one), and notes of what was done."""
    turn = turn_of(tag)
    if turn is not None:
        is_mirrored = (turn.transposes + turn.reverses_rows + turn.reverses_columns) % 2 == 1
        note = f"turned by its orientation tag {tag}{', which mirrors it' if is_mirrored else ''}"
        return TurnedPixels(pixels, turn), [note]
    if tag is None or tag == AS_STORED:
        return pixels, []
    return pixels, [f"its orientation tag, {tag!s:.20}, is none of 1 to 8 and is ignored"]


def exif_orientation(exif: bytes) -> object:
    """Return the value of the orientation tag in an EXIF block, None where there is none or the block is broken."""
    from PIL import Image

    record = Image.Exif()
    try:
        record.load(exif)
        return record.get(ORIENTATION)
    except Exception as error:  # Pillow may fail in any way on a broken block
        if is_fault_of_ours(error):
            raise
        return None

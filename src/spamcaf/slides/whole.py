"""JPEG and PNG, which have no windows: decoded once, in memory or, when large, into a temporary file."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spamcaf.slides import rgb
from spamcaf.slides.chunks import spool
from spamcaf.slides.rgb import EXIF_BEGIN, N_RGB, Alpha, Opened, PixelArray, exif_orientation, upright

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
JPEG_END, JPEG_TAIL = b"\xff\xd9", 1024
IN_MEMORY_BYTES = 500 << 20
PIXEL_RATIO = 4000
"""Bytes of pixels per byte of the file: a PNG of one colour reaches 1000, a progressive JPEG of one colour 2000."""
JPEG_KINDS = {1: "grayscale", 4: "a CMYK image"}
PNG_RGB, PNG_RGBA = 2, 6
PNG_KINDS = {0: "grayscale", 3: "a palette image", 4: "grayscale"}
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame and state its size."""
EXIF, SCAN = 0xE1, 0xDA
"""JPEG markers of an EXIF block, and of the pixels."""


class _Header(NamedTuple):
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    orientation: object


def open_jpeg(path: Path) -> Opened:
    """Open a JPEG; raise InputError unless it is whole and in colour."""
    import imagecodecs

    return _open(path, "imagecodecs (JPEG)", _jpeg_header, imagecodecs.jpeg_decode)


def open_png(path: Path) -> Opened:
    """Open a PNG; raise InputError unless it is whole and in colour."""
    import imagecodecs

    return _open(path, "imagecodecs (PNG)", _png_header, imagecodecs.png_decode)


def _open(path: Path, reader: str, read_header: Callable[[Path, bytes], _Header], decode: Callable[..., Any]) -> Opened:
    with rgb.decoding(path):
        data = path.read_bytes()
        header = read_header(path, data)
        declared = math.prod(header.shape) * header.dtype.itemsize
        if declared > PIXEL_RATIO * len(data):
            raise ValueError(f"it declares {declared} bytes of pixels in {len(data)}")
        pixel_array, notes = _decoded(path, header, lambda out: decode(data, out=out))
    alpha = Alpha.STRAIGHT if header.shape[2] > N_RGB else Alpha.NONE
    conversion, converted = rgb.conversion_of(pixel_array, alpha)
    pixels, turned = upright(rgb.FilePixels(path, pixel_array, conversion), header.orientation)
    return Opened(pixels, reader, (*turned, *notes, *converted))


def _decoded(path: Path, header: _Header, write: Callable[[NDArray[Any]], object]) -> tuple[PixelArray, list[str]]:
    if math.prod(header.shape) * header.dtype.itemsize > IN_MEMORY_BYTES:
        pixel_array, note = spool(path, header.shape, header.dtype, write)
        return pixel_array, [note]
    samples = np.empty(header.shape, header.dtype)
    write(samples)
    return rgb.DecodedPixels(samples), []


def _jpeg_header(path: Path, data: bytes) -> _Header:
    # the decoder fills what is missing with gray and gives no error
    if JPEG_END not in data[-JPEG_TAIL:]:
        raise ValueError("it is truncated")
    segments = list(_jpeg_segments(data))
    frame = next((content for marker, content in segments if marker in FRAMES), None)
    if frame is None:
        raise ValueError("it has no frame header")
    bits, rows, columns, channels = struct.unpack_from(">BHHB", frame)
    if channels != N_RGB:
        raise rgb.not_h_and_e(path, JPEG_KINDS.get(channels, f"an image of {channels} channels"))
    if bits != 8:  # noqa: PLR2004
        raise rgb.not_h_and_e(path, f"a JPEG of {bits} bits")
    exif = next((content for marker, content in segments if marker == EXIF and content.startswith(EXIF_BEGIN)), b"")
    return _Header((rows, columns, channels), np.dtype(np.uint8), exif_orientation(exif))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment before the pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != SCAN:  # noqa: PLR2004  every marker begins so
        marker = data[at + 1]
        if marker == 0xFF:  # noqa: PLR2004  a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        yield marker, data[at + 4 : end]
        at = end


def _png_header(path: Path, data: bytes) -> _Header:
    columns, rows, bits, kind = struct.unpack(">IIBB", data[16:26])
    if kind not in {PNG_RGB, PNG_RGBA}:
        raise rgb.not_h_and_e(path, PNG_KINDS.get(kind, "of an unknown kind"))
    # a colour that stands for transparent is decoded into a fourth channel
    is_opaque = kind == PNG_RGB and b"tRNS" not in data[: data.find(b"IDAT")]
    shape = rows, columns, N_RGB if is_opaque else N_RGB + 1
    return _Header(shape, np.dtype(f"uint{bits}"), exif_orientation(_png_chunk(data, b"eXIf")))


def _png_chunk(data: bytes, kind: bytes) -> bytes:
    """Return the content of the first chunk of a kind, empty where there is none."""
    at = len(PNG_MAGIC)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] == kind:
            return data[at + 8 : at + 8 + length]
        at += length + 12  # with length, kind and checksum
    return b""

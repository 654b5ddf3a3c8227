"""All eight orientation tags, in every way of storing an image, give the pixels that Pillow shows."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.slides import open, tiff, whole
from spamcaf.slides.chunks import ChunkedPixels, MappedPixels
from spamcaf.slides.open import open_slide
from spamcaf.slides.rgb import TURNS, TurnedPixels, exif_orientation

Rgb = NDArray[np.uint8]
Write = Callable[[Path, Rgb, int], object]
RGB = {"photometric": "rgb"}
TILED = {**RGB, "tile": (64, 48)}
TAGS = range(1, 9)


def upright(image: Rgb, tag: int) -> Rgb:
    stored = Image.fromarray(image)
    stored.getexif()[274] = tag
    return np.asarray(ImageOps.exif_transpose(stored))


def write_tiff(path: Path, image: NDArray[np.unsignedinteger], tag: int, **how: object) -> None:
    tifffile.imwrite(path, image, **how, extratags=[(274, "H", 1, tag, True)])


def write_pil(path: Path, image: Rgb, tag: int, kind: str, **how: object) -> None:
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(image).save(path, kind, exif=exif, **how)


def planes(image: Rgb) -> Rgb:
    return np.ascontiguousarray(np.moveaxis(image, 2, 0))


STORED: dict[str, Write] = {
    "tiles": lambda p, i, tag: write_tiff(p, i, tag, **TILED, compression="zlib"),
    "strips": lambda p, i, tag: write_tiff(p, i, tag, **RGB, rowsperstrip=16, compression="lzw"),
    "mapped": lambda p, i, tag: write_tiff(p, i, tag, **RGB),
    "planes": lambda p, i, tag: write_tiff(p, planes(i), tag, **TILED, planarconfig="separate", compression="zlib"),
    "mapped planes": lambda p, i, tag: write_tiff(p, planes(i), tag, **RGB, planarconfig="separate"),
    "16 bits": lambda p, i, tag: write_tiff(p, i.astype(np.uint16) * 257, tag, **TILED),
    "PNG": lambda p, i, tag: write_pil(p, i, tag, "png"),
}


def require_same(slide: Slide, expected: Rgb) -> None:
    rows, columns = expected.shape[:2]
    assert slide.shape == (rows, columns)
    for x0, y0, width, height in [(0, 0, columns, rows), (70, 30, 101, 57), (3, 150, 40, 50), (columns - 1, 7, 1, 1)]:
        window, n_padded = slide.read(x0, y0, width, height)
        assert (n_padded, window.dtype) == (0, np.uint8)
        np.testing.assert_array_equal(window, expected[y0 : y0 + height, x0 : x0 + width])


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("write", STORED.values(), ids=STORED)
def test_the_tag_is_applied_and_noted(tmp_path: Path, image: Rgb, write: Write, tag: int) -> None:
    write(tmp_path / "a", image, tag)
    slide = open_slide(tmp_path / "a")
    require_same(slide, upright(image, tag))
    noted = [note for note in slide.notes if "orientation" in note]
    assert len(noted) == (tag != 1)
    assert all(f"turned by its orientation tag {tag}" in note for note in noted)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("kind", ["two strips of LZW", "PNG"])
def test_what_is_decoded_once_is_turned_too(
    tmp_path: Path, image: Rgb, kind: str, tag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "CACHE_BYTES", 10_000)
    monkeypatch.setattr(whole, "IN_MEMORY_BYTES", 10_000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if kind == "PNG":
        write_pil(tmp_path / "a", image, tag, "png")
    else:
        write_tiff(tmp_path / "a", image, tag, **RGB, rowsperstrip=130, compression="lzw")
    slide = open_slide(tmp_path / "a")
    assert "decoded once into a temporary file" in "; ".join(slide.notes)
    require_same(slide, upright(image, tag))


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_files_that_pil_writes_look_as_pil_shows_them(tmp_path: Path, image: Rgb, kind: str, tag: int) -> None:
    path = tmp_path / "a"
    how = {"quality": 97, "subsampling": 0} if kind == "jpeg" else {"tiffinfo": {274: tag}}
    write_pil(path, image, tag, kind, **how)
    with Image.open(path) as shown:
        expected = np.asarray(ImageOps.exif_transpose(shown)).astype(int)
    slide = open_slide(path)
    assert slide.shape == expected.shape[:2]
    np.testing.assert_allclose(slide.read(0, 0, *slide.shape[::-1])[0], expected, atol=3)


@pytest.mark.parametrize("tag", [2, 4, 5, 7])
def test_a_mirror_is_noted(tmp_path: Path, image: Rgb, tag: int) -> None:
    STORED["tiles"](tmp_path / "a", image, tag)
    assert open_slide(tmp_path / "a").notes == (f"turned by its orientation tag {tag}, which mirrors it",)


@pytest.mark.parametrize("tag", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["tiles", "mapped", "PNG"])
def test_a_senseless_tag_is_ignored_and_noted(tmp_path: Path, image: Rgb, kind: str, tag: int) -> None:
    STORED[kind](tmp_path / "a", image, tag)
    slide = open_slide(tmp_path / "a")
    require_same(slide, image)
    assert slide.notes == (f"its orientation tag, {tag}, is none of 1 to 8 and is ignored",)


def test_two_tags_in_one_are_senseless(tmp_path: Path, image: Rgb) -> None:
    tifffile.imwrite(tmp_path / "a", image, **TILED, extratags=[(274, "H", 2, (6, 6), True)])
    slide = open_slide(tmp_path / "a")
    require_same(slide, image)
    assert "is ignored" in slide.notes[0]


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(("kind", "n_bytes"), [(3, 2), (4, 4)])
def test_exif_of_either_byte_order(order: str, kind: int, n_bytes: int) -> None:
    def number(value: int, n: int) -> bytes:
        return value.to_bytes(n, order)  # type: ignore[arg-type]

    other = number(271, 2) + number(2, 2) + number(4, 4) + b"abc\0"
    entry = number(274, 2) + number(kind, 2) + number(1, 4) + number(8, n_bytes).ljust(4, b"\0")
    header = {"little": b"II", "big": b"MM"}[order] + number(42, 2) + number(8, 4)
    exif = header + number(2, 2) + other + entry + number(0, 4)
    assert exif_orientation(b"Exif\0\0" + exif) == exif_orientation(exif) == 8
    assert exif_orientation(exif[:30]) is None
    assert exif_orientation(b"") is None


def test_a_broken_exif_block_does_not_stop_the_image(tmp_path: Path, image: Rgb) -> None:
    broken = b"Exif\0\0MM\0*\0\0\xff\xff"
    Image.fromarray(image).save(tmp_path / "a", "jpeg", exif=broken)
    assert open_slide(tmp_path / "a").shape == image.shape[:2]


def test_exif_after_the_pixels_of_a_png_counts(tmp_path: Path, image: Rgb) -> None:
    path = tmp_path / "a"
    write_pil(path, image, 6, "png")
    content = path.read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    last = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    require_same(open_slide(path), upright(image, 6))


@given(st.data())
def test_any_window_is_read_once_and_as_small_as_it_is(data: st.DataObject) -> None:
    @dataclass(frozen=True)
    class Watched(ArrayPixels):
        read: list[int] = field(default_factory=list)

        def crop(self, x0: int, y0: int, width: int, height: int) -> Rgb:
            self.read.append(width * height)
            return super().crop(x0, y0, width, height)

    stored = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    tag = data.draw(st.sampled_from(sorted(TURNS)))
    pixels, expected = TurnedPixels(Watched(stored, "f"), TURNS[tag]), upright(stored, tag)
    rows, columns = pixels.shape
    x0, y0 = data.draw(st.integers(0, columns - 1)), data.draw(st.integers(0, rows - 1))
    width, height = data.draw(st.integers(1, columns - x0)), data.draw(st.integers(1, rows - y0))
    window = pixels.crop(x0, y0, width, height)
    np.testing.assert_array_equal(window, expected[y0 : y0 + height, x0 : x0 + width])
    assert min(window.strides) > 0
    assert pixels.stored.read == [width * height]


@pytest.mark.parametrize(("tag", "is_striped"), [(1, True), (2, True), (3, True), (4, True), (6, False), (7, False)])
def test_rows_are_decoded_whole_unless_they_became_columns(
    tmp_path: Path, image: Rgb, tag: int, is_striped: bool
) -> None:
    STORED["strips"](tmp_path / "a", image, tag)
    slide = open_slide(tmp_path / "a")
    assert slide.is_striped == is_striped
    again = pickle.loads(pickle.dumps(slide))
    require_same(again, upright(image, tag))
    assert again.fingerprint == slide.fingerprint


@pytest.mark.parametrize("tag", [3, 6])
@pytest.mark.parametrize("kind", ["strips", "tiles"])
def test_strips_that_became_columns_are_decoded_once_where_they_are_too_many_to_keep(
    tmp_path: Path, image: Rgb, kind: str, tag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "STRIP_CACHE_BYTES", image.nbytes - 1)
    STORED[kind](tmp_path / "a", image, tag)
    slide = open_slide(tmp_path / "a")
    assert isinstance(slide.pixels, TurnedPixels)
    expected = MappedPixels if (kind, tag) == ("strips", 6) else ChunkedPixels
    assert isinstance(slide.pixels.stored.pixel_array, expected)
    require_same(slide, upright(image, tag))


def test_a_turn_is_part_of_the_fingerprint_and_keeps_the_scale(tmp_path: Path, image: Rgb) -> None:
    scale = {"resolution": (20_000, 20_000), "resolutionunit": 3}
    write_tiff(tmp_path / "a", image, 6, **TILED, **scale)
    slide = open_slide(tmp_path / "a")
    assert slide.mpp == pytest.approx(0.5)
    assert slide.fingerprint != slide.pixels.stored.fingerprint


def test_a_coding_that_only_openslide_may_know_is_not_given_to_it_when_turned(
    tmp_path: Path, image: Rgb, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSlide turns each tile of a plain TIFF by itself and leaves it in its place
    def refuse(path: Path, vendor: str) -> None:
        raise InputError(f"OpenSlide was tried for {path.name}.", "nothing.", "None.")

    monkeypatch.setattr(open, "open_scanned", refuse)
    for tag, message in ((1, "OpenSlide was tried"), (6, "in a coding that is not read")):
        write_tiff(tmp_path / "a", image, tag, **TILED, compression="zlib")
        with tifffile.TiffFile(tmp_path / "a", mode="r+b") as file:
            file.pages.first.tags["Compression"].overwrite(32909)
        with pytest.raises(InputError, match=message):
            open_slide(tmp_path / "a")


def test_a_slide_of_a_scanner_is_left_as_openslide_reads_it(tmp_path: Path, image: Rgb) -> None:
    description = "Aperio Image Library v12 \n|AppMag = 20|MPP = 0.5"
    how = {**RGB, "tile": (64, 64), "compression": "jpeg", "description": description, "metadata": None}
    write_tiff(tmp_path / "a.svs", image, 6, **how)
    slide = open_slide(tmp_path / "a.svs")
    assert slide.shape == image.shape[:2]
    assert "aperio" in slide.reader


def test_the_jpeg_of_a_camera_is_turned(tmp_path: Path, image: Rgb) -> None:
    # application data before and after the EXIF block, as cameras and editors write it
    exif = Image.Exif()
    exif[274] = 8
    block = exif.tobytes()
    plain = imagecodecs.jpeg_encode(image, level=97)

    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content

    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
    (tmp_path / "a.jpg").write_bytes(plain[:2] + xmp + segment(0xE1, block) + segment(0xFE, b"text") + plain[2:])
    slide = open_slide(tmp_path / "a.jpg")
    assert slide.shape == (320, 200)
    np.testing.assert_allclose(slide.read(0, 0, 200, 320)[0], upright(image, 8), atol=12)

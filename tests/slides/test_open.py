"""Every way of storing an RGB image reads the same pixels, in bounded memory, whatever the file is called."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from spamcaf.errors import InputError
from spamcaf.slides.open import IMAGE_SUFFIXES, open_slide

Rgb = NDArray[np.uint8]
Write = Callable[[Path, Rgb], object]
RGB = {"photometric": "rgb"}
TILED = {**RGB, "tile": (64, 64)}
AS_STORED = {"lzw", "zlib", "zstd", "packbits", "lzma", "webp", "jpeg2000", "jpegxl"}
APERIO = "Aperio Image Library v12.0.15 \n320x200 [0,0 320x200] (64x64) JPEG/RGB Q=97|AppMag = 20|MPP = 0.5"


def planar(image: Rgb) -> Rgb:
    return np.ascontiguousarray(np.moveaxis(image, 2, 0))


def opaque(image: Rgb) -> Rgb:
    return np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=2)


def pyramid(path: Path, image: Rgb) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, **TILED, subifds=1)
        tiff.write(image[::2, ::2], **TILED, subfiletype=1)


def labelled_ome(path: Path, image: Rgb) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(image[:40, :30], **RGB, metadata={"Name": "label"})
        tiff.write(image, **TILED, metadata={"Name": "slide"})
        tiff.write(image[::4, ::4], **RGB, metadata={"Name": "macro"})


def ycbcr(path: Path, image: Rgb) -> None:
    stored = np.asarray(Image.fromarray(image).convert("YCbCr"))
    tifffile.imwrite(path, stored, photometric="ycbcr", tile=(64, 64), compression="zlib")


def hamamatsu(path: Path, image: Rgb) -> None:
    tags = [(65420, "I", 1, 1, True), (65421, "f", 1, 20.0, True)]
    tags += [(code, "i", 1, 0, True) for code in (65422, 65423, 65424)]
    whole = {"rowsperstrip": len(image), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)}
    scale = {"resolution": (20_000, 20_000), "resolutionunit": 3}
    encoded = imagecodecs.jpeg_encode(image, level=97)
    tifffile.imwrite(
        path, iter([encoded]), shape=image.shape, dtype=np.uint8, extratags=tags, metadata=None, **whole, **scale
    )


LOSSLESS: dict[str, tuple[str, Write]] = {
    "striped": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **RGB, rowsperstrip=16)),
    "one strip": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **RGB)),
    "one compressed strip": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **RGB, rowsperstrip=200, compression="lzw")),
    "one row a strip": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **RGB, rowsperstrip=1, compression="lzw")),
    "predicted": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **TILED, compression="zlib", predictor=True)),
    "tiled": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **RGB, tile=(64, 48))),
    "BigTIFF": ("a.btf", lambda p, i: tifffile.imwrite(p, i, **RGB, bigtiff=True, compression="zlib")),
    "big-endian": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **TILED, byteorder=">")),
    "pyramid": ("a.tif", pyramid),
    "planar": ("a.tif", lambda p, i: tifffile.imwrite(p, planar(i), **RGB, planarconfig="separate")),
    "planar tiles": (
        "a.tif",
        lambda p, i: tifffile.imwrite(p, planar(i), **TILED, planarconfig="separate", compression="zlib"),
    ),
    "leading singletons": ("a.tif", lambda p, i: tifffile.imwrite(p, i[None, None], **TILED)),
    "OME": ("a.ome.tif", lambda p, i: tifffile.imwrite(p, i, **RGB, metadata={"axes": "YXS"})),
    "OME with label and macro": ("a.ome.tif", labelled_ome),
    "OME by channel": (
        "a.ome.tif",
        lambda p, i: tifffile.imwrite(
            p, planar(i)[None, None], photometric="minisblack", tile=(64, 64), metadata={"axes": "TZCYX"}
        ),
    ),
    "ImageJ by channel": ("a.tif", lambda p, i: tifffile.imwrite(p, planar(i), imagej=True, metadata={"axes": "CYX"})),
    "RGBA": ("a.tif", lambda p, i: tifffile.imwrite(p, opaque(i), **TILED, compression="webp")),
    "16-bit": ("a.tif", lambda p, i: tifffile.imwrite(p, i.astype(np.uint16) * 257, **TILED)),
    "8 bits of 16": ("a.tif", lambda p, i: tifffile.imwrite(p, i.astype(np.uint16), **RGB, byteorder=">")),
    "PNG": ("a.png", lambda p, i: imagecodecs.imwrite(str(p), i)),
    "PNG of 16 bits": ("a.png", lambda p, i: p.write_bytes(imagecodecs.png_encode(i.astype(np.uint16) * 257))),
    "PNG with a transparent colour": ("a.png", lambda p, i: Image.fromarray(i).save(p, transparency=(1, 2, 3))),
    **{
        f"TIFF {name}": ("a.TIFF", lambda p, i, name=name: tifffile.imwrite(p, i, **TILED, compression=name))
        for name in sorted(AS_STORED)
    },
}


@pytest.mark.parametrize(("name", "write"), LOSSLESS.values(), ids=LOSSLESS)
def test_windows_hold_the_pixels_that_were_written(tmp_path: Path, image: Rgb, name: str, write: Write) -> None:
    write(tmp_path / name, image)
    slide = open_slide(tmp_path / name)
    rows, columns = image.shape[:2]
    assert slide.shape == (rows, columns)
    assert slide.name == name
    for x0, y0, width, height in [(0, 0, columns, rows), (70, 30, 101, 57), (columns - 1, rows - 1, 1, 1)]:
        window, n_padded = slide.read(x0, y0, width, height)
        assert n_padded == 0
        assert window.dtype == np.uint8
        np.testing.assert_array_equal(window, image[y0 : y0 + height, x0 : x0 + width])


LOSSY: dict[str, tuple[str, Write]] = {
    "JPEG": ("a.jpg", lambda p, i: imagecodecs.imwrite(str(p), i, level=97)),
    "progressive JPEG": ("a.jpeg", lambda p, i: Image.fromarray(i).save(p, quality=97, progressive=True)),
    "JPEG tiles": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **TILED, compression="jpeg")),
    "JPEG tiles with less chroma": (
        "a.tif",
        lambda p, i: tifffile.imwrite(p, i, **TILED, compression="jpeg", subsampling=(2, 2)),
    ),
    "JPEG strips": ("a.tif", lambda p, i: tifffile.imwrite(p, i, **RGB, rowsperstrip=16, compression="jpeg")),
    "JPEG planes": (
        "a.tif",
        lambda p, i: tifffile.imwrite(p, planar(i), **TILED, planarconfig="separate", compression="jpeg"),
    ),
    "luma and chroma": ("a.tif", ycbcr),
    "12 bits of 16": ("a.tif", lambda p, i: tifffile.imwrite(p, i.astype(np.uint16) * 16, **RGB)),
    "svs": (
        "a.svs",
        lambda p, i: tifffile.imwrite(p, i, **TILED, compression="jpeg", description=APERIO, metadata=None),
    ),
    "svs of JPEG 2000": (
        "a.svs",
        lambda p, i: tifffile.imwrite(
            p, i, **TILED, compression="APERIO_JP2000_RGB", description=APERIO, metadata=None
        ),
    ),
    "ndpi": ("a.ndpi", hamamatsu),
}


@pytest.mark.parametrize(("name", "write"), LOSSY.values(), ids=LOSSY)
def test_lossy_codings_keep_colours_and_places(tmp_path: Path, image: Rgb, name: str, write: Write) -> None:
    write(tmp_path / name, image)
    slide = open_slide(tmp_path / name)
    assert slide.shape == image.shape[:2]
    window, _ = slide.read(40, 20, 200, 150)
    difference = np.abs(window.astype(int) - image[20:170, 40:240])
    assert difference.mean() < 2
    assert difference.max() < 12


@pytest.mark.parametrize(
    ("kind", "misnomer", "reader"),
    [
        ("tiled", "a.jpg", "tifffile"),
        ("tiled", "a.ndpi", "tifffile"),
        ("striped", "a.mrxs", "tifffile"),
        ("PNG", "a.svs", "PNG"),
        ("JPEG", "a.tif", "JPEG"),
        ("svs", "a.tif", "aperio"),
        ("ndpi", "a.png", "hamamatsu"),
    ],
)
def test_the_content_decides_who_reads(
    tmp_path: Path, image: Rgb, kind: str, misnomer: str, reader: str, caplog: pytest.LogCaptureFixture
) -> None:
    (LOSSLESS | LOSSY)[kind][1](tmp_path / LOSSLESS.get(kind, LOSSY.get(kind))[0], image)
    next(tmp_path.iterdir()).rename(tmp_path / misnomer)
    with caplog.at_level(logging.INFO, "spamcaf"):
        slide = open_slide(tmp_path / misnomer)
    assert reader in slide.reader
    assert np.abs(slide.read(0, 0, 320, 200)[0].astype(int) - image).mean() < 2
    assert f"{misnomer}: 320 x 200 px, read by {slide.reader}" in caplog.text


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("OME with label and macro", "largest of 3 images"),
        ("RGBA", "transparency laid over white"),
        ("16-bit", "0 to 65535"),
        ("8 bits of 16", "0 to 255 rescaled"),
        ("12 bits of 16", "0 to 4095"),
        ("OME by channel", "red, green and blue"),
        ("luma and chroma", "converted to RGB"),
    ],
)
def test_what_was_chosen_or_converted_is_noted(tmp_path: Path, image: Rgb, kind: str, note: str) -> None:
    name, write = (LOSSLESS | LOSSY)[kind]
    write(tmp_path / name, image)
    assert note in "; ".join(open_slide(tmp_path / name).notes)


def write_png(path: Path, rgba: Rgb) -> None:
    path.write_bytes(imagecodecs.png_encode(rgba))


def write_tiff(path: Path, rgba: Rgb) -> None:
    tifffile.imwrite(path, rgba, **TILED, extrasamples=["unassalpha"])


def write_16_bits(path: Path, rgba: Rgb) -> None:
    tifffile.imwrite(path, rgba.astype(np.uint16) * 257, **TILED, extrasamples=["unassalpha"])


def write_premultiplied(path: Path, rgba: Rgb) -> None:
    share = rgba[..., 3:] / 255
    colours = np.rint(rgba[..., :3] * share)
    stored = np.concatenate([colours, rgba[..., 3:]], axis=2).astype(np.uint8)
    tifffile.imwrite(path, stored, **TILED, extrasamples=["assocalpha"])


@pytest.mark.parametrize("write", [write_png, write_tiff, write_16_bits, write_premultiplied])
def test_transparency_is_laid_over_white(tmp_path: Path, image: Rgb, write: Write) -> None:
    rgba = opaque(image)
    rgba[:, :100, 3], rgba[:, 100:200, 3] = 0, 128
    write(tmp_path / "a", rgba)
    window, _ = open_slide(tmp_path / "a").read(0, 0, 320, 200)
    assert (window[:, :100] == 255).all()
    np.testing.assert_array_equal(window[:, 200:], image[:, 200:])
    half = image[:, 100:200] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(window[:, 100:200], half, atol=1)


IGNORED = "its fourth channel, whose meaning it does not state, is ignored"


def write_unspecified(path: Path, rgba: Rgb) -> None:
    tifffile.imwrite(path, rgba, **TILED, extrasamples=["unspecified"])


def write_unspecified_mapped(path: Path, rgba: Rgb) -> None:
    tifffile.imwrite(path, rgba, **RGB, extrasamples=["unspecified"])


def write_unspecified_planes(path: Path, rgba: Rgb) -> None:
    tifffile.imwrite(path, planar(rgba), **TILED, planarconfig="separate", extrasamples=["unspecified"])


def write_unspecified_16_bits(path: Path, rgba: Rgb) -> None:
    # deeper than the colours, whose depth alone decides what is white
    deep = rgba.astype(np.uint16)
    deep[..., 3] *= 257
    tifffile.imwrite(path, deep, **TILED, extrasamples=["unspecified"])


def write_without_the_tag(path: Path, rgba: Rgb) -> None:
    write_unspecified(path, rgba)
    content, tag = path.read_bytes(), b"\x52\x01\x03\x00\x01\x00\x00\x00"
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag, b"\xe8\xfd" + tag[2:]))  # ExtraSamples becomes a private tag


def write_pil_rgbx(path: Path, rgba: Rgb) -> None:
    Image.frombuffer("RGBX", rgba.shape[1::-1], rgba.tobytes()).save(path, "tiff")


@pytest.mark.parametrize(
    "write",
    [
        write_unspecified,
        write_unspecified_mapped,
        write_unspecified_planes,
        write_unspecified_16_bits,
        write_without_the_tag,
        write_pil_rgbx,
    ],
)
def test_a_fourth_channel_of_unstated_meaning_is_ignored_and_noted(tmp_path: Path, image: Rgb, write: Write) -> None:
    rgba = opaque(image)
    rgba[:, :, 3] = np.linspace(0, 255, rgba.shape[1]).astype(np.uint8)
    write(tmp_path / "a", rgba)
    slide = open_slide(tmp_path / "a")
    np.testing.assert_array_equal(slide.read(0, 0, 320, 200)[0], image)
    np.testing.assert_array_equal(slide.read(33, 44, 100, 50)[0], image[44:94, 33:133])
    assert IGNORED in slide.notes
    assert "transparency laid over white" not in slide.notes


@pytest.mark.parametrize(
    "write",
    [
        lambda path, rgba: tifffile.imwrite(path, rgba, **TILED),
        lambda path, rgba: Image.fromarray(rgba).save(path, "tiff"),
        lambda path, rgba: Image.fromarray(rgba).save(path, "png"),
    ],
    ids=["tifffile", "PIL", "PNG of PIL"],
)
def test_transparency_that_common_programs_write_is_stated(tmp_path: Path, image: Rgb, write: Write) -> None:
    rgba = opaque(image)
    rgba[:, :100, 3] = 0
    write(tmp_path / "a", rgba)
    slide = open_slide(tmp_path / "a")
    assert (slide.read(0, 0, 100, 200)[0] == 255).all()
    assert slide.notes == ("transparency laid over white",)


@pytest.mark.parametrize("shape", [(1, 320), (200, 1), (1, 1)])
@pytest.mark.parametrize("how", [RGB, {**RGB, "compression": "zlib"}], ids=["mapped", "compressed"])
def test_one_row_or_column_is_an_image_too(
    tmp_path: Path, image: Rgb, shape: tuple[int, int], how: dict[str, str]
) -> None:
    line = np.ascontiguousarray(image[: shape[0], : shape[1]])
    tifffile.imwrite(tmp_path / "a.tif", line, **how)
    slide = open_slide(tmp_path / "a.tif")
    assert slide.shape == shape
    np.testing.assert_array_equal(slide.read(0, 0, shape[1], shape[0])[0], line)


def test_tiles_that_were_never_written_are_white(tmp_path: Path, image: Rgb) -> None:
    def tiles() -> object:
        for top in range(0, 192, 64):
            for left in range(0, 320, 64):
                hole = (top, left) == (64, 128)
                yield None if hole else np.ascontiguousarray(image[top : top + 64, left : left + 64])

    tifffile.imwrite(tmp_path / "a.tif", tiles(), shape=(192, 320, 3), dtype=np.uint8, compression="zlib", **TILED)
    slide = open_slide(tmp_path / "a.tif")
    expected = image[:192].copy()
    expected[64:128, 128:192] = 255
    np.testing.assert_array_equal(slide.read(0, 0, 320, 192)[0], expected)
    assert "1 of 15 tiles were never written and are white" in slide.notes


def test_the_fingerprint_sees_a_change_in_the_middle_of_an_uncompressed_file(tmp_path: Path) -> None:
    image = np.zeros((2000, 2000, 3), np.uint8)
    found = []
    for value in (0, 1):
        image[995:1005] = value
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
        found.append(open_slide(tmp_path / "a.tif").fingerprint)
    assert found[0] != found[1]


def test_the_fingerprint_tells_images_apart(tmp_path: Path, image: Rgb) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **RGB)
    tifffile.imwrite(tmp_path / "b.tif", 255 - image, **RGB)
    tifffile.imwrite(tmp_path / "c.tif", image, **RGB)
    a, b, c = (open_slide(tmp_path / f"{name}.tif").fingerprint for name in "abc")
    assert a == c != b


def test_readable_suffixes_are_those_of_paths() -> None:
    assert {".tif", ".btf", ".jpg", ".png", ".svs", ".ndpi", ".mrxs"} <= IMAGE_SUFFIXES
    assert all(Path(f"a{suffix}").suffix == suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image .*a\.tif"):
        open_slide(tmp_path / "a.tif")


IMAGE = np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8)


@pytest.mark.parametrize(
    ("how", "is_striped"),
    [
        ({"tile": (32, 32), "compression": "zlib"}, False),
        ({"rowsperstrip": 8, "compression": "zlib"}, True),
        ({}, False),
    ],
    ids=["tiled", "striped", "mapped"],
)
def test_a_slide_survives_pickling(tmp_path: Path, how: dict[str, object], is_striped: bool) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", **how)
    slide = open_slide(path)
    again = pickle.loads(pickle.dumps(slide))
    assert slide.is_portable and again.is_portable
    assert slide.is_striped == again.is_striped == is_striped
    assert again.fingerprint == slide.fingerprint
    np.testing.assert_array_equal(again.read(7, 5, 60, 40)[0], IMAGE[5:45, 7:67])


SIDE, TILE, WINDOW = 30_000, 512, 1000
READ = """
import resource, sys
from pathlib import Path
import numpy, tifffile, imagecodecs, openslide, PIL.Image
from spamcaf.slides.open import open_slide

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = peak()
slide = open_slide(Path(sys.argv[1]))
window = int(sys.argv[2])
rng = numpy.random.default_rng(0)
for x0, y0 in rng.integers(0, slide.shape[0] - window, (200, 2)):
    slide.read(int(x0), int(y0), window, window)
corner, _ = slide.read(slide.shape[1] - 3, slide.shape[0] - 3, 3, 3)
print(slide.shape[0], (peak() - before) >> 20, *corner.reshape(-1, 3).mean(axis=0).astype(int))
"""


def encoded_tiles() -> Iterator[bytes]:
    """One tile in a hundred is a ramp of its own; the others are one pattern, encoded once."""
    across = -(-SIDE // TILE)
    ramp = np.arange(TILE, dtype=np.uint8)
    plain = np.empty((TILE, TILE, 3), np.uint8)
    plain[:] = (200, 120, 180)
    common = imagecodecs.zlib_encode(plain.tobytes())
    for index in range(across**2):
        if index % 100:
            yield common
        else:
            yield imagecodecs.zlib_encode((plain + ramp[:, None] + np.uint8(index % 256)).tobytes(), level=1)


def test_200_windows_of_a_30_000_px_tiff_take_less_than_500_mb(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="peak memory is measured by the operating system, not so on Windows")
    path = tmp_path / "large.tif"
    how = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "zlib", "bigtiff": True}
    tifffile.imwrite(path, encoded_tiles(), shape=(SIDE, SIDE, 3), dtype=np.uint8, **how)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(WINDOW)], capture_output=True, text=True, timeout=120, check=True
    )
    rows, peak_mb, *corner = map(int, done.stdout.split())
    assert rows == SIDE
    assert corner == [200, 120, 180]
    assert peak_mb < 500

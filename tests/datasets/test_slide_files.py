"""Every way of storing an RGB image reads the same pixels; what is not 8-bit RGB, or is damaged, is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from kedro.io import DatasetError
from numpy.typing import NDArray
from PIL import Image

from spamcaf.datasets.slide import SlideDataset
from spamcaf.errors import InputError
from spamcaf.histology.slide import Slide

ROWS, COLUMNS = 200, 320


def picture() -> NDArray[np.uint8]:
    """Smooth, asymmetric, and with a different gradient in each channel."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([x * 0.7, 255 - y, np.full_like(x, 40)], axis=-1).astype(np.uint8)


IMAGE = picture()
RGB = {"photometric": "rgb"}


def pyramid(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, **RGB, tile=(64, 64), subifds=1)
        tiff.write(IMAGE[::2, ::2], **RGB, tile=(64, 64), subfiletype=1)


Write = Callable[[Path], object]
LOSSLESS: dict[str, tuple[str, Write]] = {
    "striped": ("a.tif", lambda p: tifffile.imwrite(p, IMAGE, **RGB, rowsperstrip=16)),
    "one strip": ("a.tif", lambda p: tifffile.imwrite(p, IMAGE, **RGB)),
    "tiled": ("a.tif", lambda p: tifffile.imwrite(p, IMAGE, **RGB, tile=(64, 48))),
    "compressed": ("a.TIFF", lambda p: tifffile.imwrite(p, IMAGE, **RGB, tile=(64, 64), compression="lzw")),
    "BigTIFF": ("a.btf", lambda p: tifffile.imwrite(p, IMAGE, **RGB, bigtiff=True, compression="zlib")),
    "pyramid": ("a.tif", pyramid),
    "OME": ("a.ome.tif", lambda p: tifffile.imwrite(p, IMAGE, **RGB, metadata={"axes": "YXS"})),
    "PNG": ("a.png", lambda p: imagecodecs.imwrite(str(p), IMAGE)),
}


def open_(path: Path) -> Slide:
    return SlideDataset(filepath=str(path)).load()


@pytest.mark.parametrize(("name", "write"), LOSSLESS.values(), ids=LOSSLESS)
def test_windows_hold_the_pixels_that_were_written(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name)
    slide = open_(tmp_path / name)
    assert slide.shape == (ROWS, COLUMNS)
    assert slide.name == name
    for x0, y0, width, height in [(0, 0, COLUMNS, ROWS), (70, 30, 101, 57), (COLUMNS - 1, ROWS - 1, 1, 1)]:
        window, n_padded = slide.read(x0, y0, width, height)
        assert n_padded == 0
        assert window.dtype == np.uint8
        np.testing.assert_array_equal(window, IMAGE[y0 : y0 + height, x0 : x0 + width])


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_jpeg_keeps_rgb_order(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".jpg":
        imagecodecs.imwrite(str(path), IMAGE, level=97)
    else:
        tifffile.imwrite(path, IMAGE, **RGB, tile=(64, 64), compression="jpeg", compressionargs={"level": 97})
    window, _ = open_(path).read(40, 20, 200, 150)
    assert np.abs(window.astype(int) - IMAGE[20:170, 40:240]).mean() < 2


def test_transparent_png_is_laid_over_white(tmp_path: Path) -> None:
    alpha = np.zeros((ROWS, COLUMNS, 1), np.uint8)
    alpha[:, 100:200], alpha[:, 200:] = 128, 255
    imagecodecs.imwrite(str(tmp_path / "a.png"), np.concatenate([IMAGE, alpha], axis=2))
    window, _ = open_(tmp_path / "a.png").read(0, 0, COLUMNS, ROWS)
    assert (window[:, :100] == 255).all()
    np.testing.assert_array_equal(window[:, 200:], IMAGE[:, 200:])
    half = IMAGE[:, 100:200] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(window[:, 100:200], half, atol=1)


GRAY = IMAGE[..., 0]
REFUSED: dict[str, tuple[str, Write]] = {
    "16-bit TIFF": ("a.tif", lambda p: tifffile.imwrite(p, IMAGE.astype(np.uint16), **RGB)),
    "16-bit PNG": ("a.png", lambda p: imagecodecs.imwrite(str(p), IMAGE.astype(np.uint16))),
    "gray TIFF": ("a.tif", lambda p: tifffile.imwrite(p, GRAY, photometric="minisblack")),
    "gray PNG": ("a.png", lambda p: Image.fromarray(GRAY).save(p)),
    "gray JPEG": ("a.jpg", lambda p: Image.fromarray(GRAY).save(p)),
    "gray and alpha": ("a.png", lambda p: Image.fromarray(IMAGE[..., :2].copy(), "LA").save(p)),
    "fluorescence": ("a.tif", lambda p: tifffile.imwrite(p, np.moveaxis(IMAGE, 2, 0), photometric="minisblack")),
    "planar": ("a.tif", lambda p: tifffile.imwrite(p, np.moveaxis(IMAGE, 2, 0), **RGB, planarconfig="separate")),
}


def refused(path: Path) -> InputError:
    """Open and read whole; return what was said."""
    with pytest.raises((DatasetError, InputError)) as caught:
        open_(path).read(0, 0, COLUMNS, ROWS)
    error = InputError.within(caught.value)
    assert error is not None, caught.value
    return error


@pytest.mark.parametrize(("name", "write"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_8_bit_rgb_is_refused(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name)
    assert "three channels of 8 bits" in str(refused(tmp_path / name))


TRUNCATED = {name: case for name, case in LOSSLESS.items() if name != "pyramid"} | {
    "JPEG": ("a.jpg", lambda p: imagecodecs.imwrite(str(p), IMAGE)),
    "JPEG tiles": ("a.tif", lambda p: tifffile.imwrite(p, IMAGE, **RGB, tile=(64, 64), compression="jpeg")),
}


@pytest.mark.parametrize("share", [0.6, 0.97])
@pytest.mark.parametrize(("name", "write"), TRUNCATED.values(), ids=TRUNCATED)
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, write: Write, share: float) -> None:
    write(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    assert name in str(refused(tmp_path / name))


@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.png"])
def test_other_content_under_an_image_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no image" * 100)
    assert name in str(refused(tmp_path / name))


def test_missing_and_unknown_files_are_refused(tmp_path: Path) -> None:
    assert "no image" in str(refused(tmp_path / "a.tif"))
    (tmp_path / "a.mrxs").touch()
    assert "of a kind that is not read" in str(refused(tmp_path / "a.mrxs"))


def test_the_fingerprint_tells_images_apart(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, **RGB)
    tifffile.imwrite(tmp_path / "b.tif", 255 - IMAGE, **RGB)
    tifffile.imwrite(tmp_path / "c.tif", IMAGE, **RGB)
    a, b, c = (open_(tmp_path / f"{name}.tif").fingerprint for name in "abc")
    assert a == c != b

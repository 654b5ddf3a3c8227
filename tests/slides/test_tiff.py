"""What is not RGB, or is damaged, ends in an error that names the file and the reason; the scale that files state."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from spamcaf.errors import InputError
from spamcaf.slides import tiff
from spamcaf.slides.open import open_slide
from spamcaf.slides.tiff import plausible_mpp, require_first_page

Rgb = NDArray[np.uint8]
Write = Callable[[Path, Rgb], object]
RGB = {"photometric": "rgb"}
TILED = {**RGB, "tile": (64, 64)}
GRAY = {"photometric": "minisblack"}
APERIO = "Aperio Image Library v12 \n|AppMag = 20|MPP = 0.5"


def refused(path: Path) -> str:
    """Open and read whole; return the error."""
    try:
        slide = open_slide(path)
        slide.read(0, 0, *slide.shape[::-1])
    except InputError as error:
        return str(error)
    return ""


def three_pages(path: Path, image: Rgb) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for channel in range(3):
            tiff.write(image[..., channel], **GRAY, metadata=None)


def small_rgb_beside_large_gray(path: Path, image: Rgb) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image[..., 0], **GRAY, metadata=None)
        tiff.write(image[::2, ::2], **RGB, metadata=None)


def two_images(path: Path, image: Rgb) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, **RGB, metadata=None)
        tiff.write(image, **TILED, metadata=None)


def channels(image: Rgb, n: int) -> Rgb:
    return np.ascontiguousarray(np.moveaxis(image[..., np.arange(n) % 3], 2, 0))


REFUSED: dict[str, tuple[str, Write]] = {
    "gray TIFF": ("grayscale", lambda p, i: tifffile.imwrite(p, i[..., 0], **GRAY)),
    "gray PNG": ("grayscale", lambda p, i: Image.fromarray(i).convert("L").save(p, "png")),
    "gray JPEG": ("grayscale", lambda p, i: Image.fromarray(i).convert("L").save(p, "jpeg")),
    "gray and alpha": ("grayscale", lambda p, i: Image.fromarray(i).convert("LA").save(p, "png")),
    "palette TIFF": (
        "palette",
        lambda p, i: tifffile.imwrite(p, i[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
    ),
    "palette PNG": ("palette", lambda p, i: Image.fromarray(i).convert("P").save(p, "png")),
    "CMYK TIFF": (
        "CMYK",
        lambda p, i: tifffile.imwrite(p, np.moveaxis(channels(i, 4), 0, 2), photometric="separated"),
    ),
    "CMYK JPEG": ("CMYK", lambda p, i: Image.fromarray(i).convert("CMYK").save(p, "jpeg")),
    "CIELAB": ("CIELAB", lambda p, i: tifffile.imwrite(p, i, photometric="cielab")),
    "floats": ("float32", lambda p, i: tifffile.imwrite(p, i.astype(np.float32), **RGB)),
    "32 bits": ("uint32", lambda p, i: tifffile.imwrite(p, i.astype(np.uint32), **RGB)),
    "2 channels": (
        "2 channels",
        lambda p, i: tifffile.imwrite(p, channels(i, 2), **GRAY, metadata={"axes": "CYX"}),
    ),
    "4 channels": (
        "4 channels .* fluorescence",
        lambda p, i: tifffile.imwrite(p, channels(i, 4), **GRAY, metadata={"axes": "CYX"}),
    ),
    "5 channels in each pixel": (
        "5 channels",
        lambda p, i: tifffile.imwrite(p, np.moveaxis(channels(i, 5), 0, 2), **GRAY, planarconfig="contig"),
    ),
    "a stack of unnamed axis": ("axes QYX", lambda p, i: tifffile.imwrite(p, channels(i, 3), **GRAY)),
    "a time series": ("stack", lambda p, i: tifffile.imwrite(p, np.stack([i, i]), **RGB, metadata={"axes": "TYXS"})),
    "three pages": ("stack", three_pages),
    "small RGB beside large gray": ("grayscale", small_rgb_beside_large_gray),
    "two images": ("2 colour images of the same size", two_images),
    "text": ("kind that is not read", lambda p, i: p.write_bytes(b"no image" * 100)),
    "nothing": ("kind that is not read", lambda p, i: p.touch()),
}


@pytest.mark.parametrize(("why", "write"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_rgb_is_refused_with_the_reason(tmp_path: Path, image: Rgb, why: str, write: Write) -> None:
    write(tmp_path / "a.tif", image)
    with pytest.raises(InputError, match=why) as caught:
        open_slide(tmp_path / "a.tif")
    assert "a.tif" in str(caught.value)


WHOLE: dict[str, Write] = {
    "strips": lambda p, i: tifffile.imwrite(p, i, **RGB, rowsperstrip=16),
    "one strip": lambda p, i: tifffile.imwrite(p, i, **RGB),
    "compressed strips": lambda p, i: tifffile.imwrite(p, i, **RGB, rowsperstrip=8, compression="lzw"),
    "tiles": lambda p, i: tifffile.imwrite(p, i, **TILED),
    "planar tiles": lambda p, i: tifffile.imwrite(p, channels(i, 3), **TILED, planarconfig="separate"),
    "JPEG tiles": lambda p, i: tifffile.imwrite(p, i, **TILED, compression="jpeg"),
    "BigTIFF": lambda p, i: tifffile.imwrite(p, i, **TILED, bigtiff=True, compression="zlib"),
    "OME": lambda p, i: tifffile.imwrite(p, i, **TILED, ome=True),
    "16 bits": lambda p, i: tifffile.imwrite(p, i.astype(np.uint16), **RGB),
    "svs": lambda p, i: tifffile.imwrite(
        p,
        i,
        **TILED,
        compression="jpeg",
        description="Aperio Image Library v12 \n|AppMag = 20|MPP = 0.5",
        metadata=None,
    ),
    "JPEG": lambda p, i: p.write_bytes(imagecodecs.jpeg_encode(i)),
    "PNG": lambda p, i: p.write_bytes(imagecodecs.png_encode(i)),
}


@pytest.mark.parametrize("share", [0.02, 0.6, 0.97])
@pytest.mark.parametrize("write", WHOLE.values(), ids=WHOLE)
def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path: Path, image: Rgb, write: Write, share: float) -> None:
    path = tmp_path / "a.tif"
    write(path, image)
    open_slide(path)
    content = path.read_bytes()
    path.write_bytes(content[: max(int(len(content) * share), 12)])
    with pytest.raises(InputError, match=r"a\.tif"):
        open_slide(path)


def test_the_first_missing_tile_is_named(tmp_path: Path, image: Rgb) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **TILED, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        begin = tiff.pages.first.dataoffsets[13]
    path.write_bytes(path.read_bytes()[: begin + 1])
    assert "truncated: 7 of 20 tiles or strips lie beyond its end, from 13 on" in refused(path)


@pytest.mark.parametrize(("tag", "value"), [("StripByteCounts", 100), ("StripOffsets", 0)])
def test_a_strip_that_was_not_written_whole_is_refused(tmp_path: Path, image: Rgb, tag: str, value: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **RGB)
    with path.open("ab") as file:
        file.write(bytes(image.nbytes))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags[tag].overwrite(value)
    assert "never written" in refused(path)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "webp", "jpeg"])
def test_a_damaged_tile_is_named_and_the_others_are_read(tmp_path: Path, image: Rgb, compression: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **TILED, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        begin, count = tiff.pages.first.dataoffsets[7], tiff.pages.first.databytecounts[7]
    content = bytearray(path.read_bytes())
    content[begin : begin + count] = bytes(count)
    path.write_bytes(content)
    slide = open_slide(path)
    assert np.abs(slide.read(0, 0, 320, 64)[0].astype(int) - image[:64]).mean() < 2
    with pytest.raises(InputError, match=r"a\.tif is damaged in tile or strip 7, at pixel \(128, 64\)"):
        slide.read(150, 100, 10, 10)


def test_an_offset_that_no_file_reaches_is_damage(tmp_path: Path, image: Rgb) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **TILED, bigtiff=True, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags["TileOffsets"].valueoffset
    content = bytearray(path.read_bytes())
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(InputError, match="farther than any file reaches"):
        require_first_page(path, is_ndpi=False)


@pytest.mark.parametrize("size", [2**31, 2**20])
def test_tiles_that_no_scanner_writes_never_reach_openslide(tmp_path: Path, image: Rgb, size: int) -> None:
    """It ends the process where there is no room for one."""
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, image, **TILED, compression="jpeg", description=APERIO, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(size, dtype="I")
    assert f"tiles of {size} x {size} px" in refused(path)


def test_a_width_of_tiles_that_is_no_number_is_refused(tmp_path: Path, image: Rgb) -> None:
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, image, **TILED, compression="jpeg", description=APERIO, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags["TileWidth"].overwrite((64, 64), dtype="H")
    assert "tiles of (64, 64) x 64 px" in refused(path)


def test_a_scanned_image_of_no_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Rgb) -> None:
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, image, **TILED, compression="jpeg", description=APERIO, metadata=None)
    monkeypatch.setattr("spamcaf.slides.open.ScannedPixels.shape", (0, 320))  # as of one whose areas are damaged
    assert "0 x 320 px" in refused(path)


@pytest.mark.parametrize(
    ("columns", "more", "is_refused"),
    [(5, "", False), (6, "", True), (10**30, "", True), (6, ' AOIScanned="0"', False)],
)
def test_a_description_with_more_tiles_than_the_page_is_refused(
    tmp_path: Path, image: Rgb, columns: int, more: str, is_refused: bool
) -> None:
    """OpenSlide takes the size of a tile that is not there from whatever lies behind, and ends the process."""
    text = f'<ImageInfo NumRows="4" NumCols="{columns}"{more}/>'.encode()
    tags = [(700, "B", len(text), text, True)]
    how = {"extratags": tags, "metadata": None, "description": "level=0 mag=20 quality=90"}
    tifffile.imwrite(tmp_path / "a.bif", image, **TILED, compression="jpeg", **how)
    if is_refused:
        with pytest.raises(InputError, match="NumCols is"):
            require_first_page(tmp_path / "a.bif", is_ndpi=False)
    else:
        require_first_page(tmp_path / "a.bif", is_ndpi=False)


def test_places_of_tiles_that_are_no_numbers_are_damage(tmp_path: Path, image: Rgb) -> None:
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, image, **TILED, compression="jpeg", description=APERIO, metadata=None)
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        text, counts = tags["ImageDescription"], tags["TileByteCounts"]
    content = bytearray(path.read_bytes())
    content[counts.offset + 2 : counts.offset + 12] = content[text.offset + 2 : text.offset + 12]
    path.write_bytes(content)
    assert "are no numbers" in refused(path)


def test_damage_that_only_openslide_meets_is_an_input_error_too(tmp_path: Path, image: Rgb) -> None:
    path = tmp_path / "a.svs"
    WHOLE["svs"](path, image)
    with tifffile.TiffFile(path) as tiff:
        begin, count = tiff.pages.first.dataoffsets[7], tiff.pages.first.databytecounts[7]
    content = bytearray(path.read_bytes())
    content[begin : begin + count] = bytes(count)
    path.write_bytes(content)
    assert "a.svs" in refused(path)


@pytest.mark.parametrize("write", WHOLE.values(), ids=WHOLE)
def test_a_garbled_header_ends_in_an_input_error_or_an_image(tmp_path: Path, image: Rgb, write: Write) -> None:
    path = tmp_path / "a.tif"
    write(path, image)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(25):
        content = bytearray(whole)
        for at in rng.integers(4, min(len(whole), 600), 3):
            content[at] = rng.integers(256)
        path.write_bytes(content)
        message = ""
        try:
            window, _ = open_slide(path).read(0, 0, 50, 50)
        except InputError as error:
            message = str(error)
        assert "a.tif" in message or window.shape == (50, 50, 3)


def test_a_preview_of_a_slide_in_a_folder_is_not_taken_for_it(tmp_path: Path, image: Rgb) -> None:
    (tmp_path / "a.mrxs").write_bytes(imagecodecs.jpeg_encode(image))
    assert "does not find the files that belong to it" in refused(tmp_path / "a.mrxs")


def test_planes_in_another_file_are_never_filled_in(tmp_path: Path, image: Rgb) -> None:
    # an OME-TIFF may list planes that lie in other files, here one that is missing
    tifffile.imwrite(tmp_path / "a.ome.tif", channels(image, 3), **GRAY, tile=(64, 64), metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = tiff.ome_metadata
    parts = "".join(
        f'<TiffData IFD="0" FirstC="{c}" PlaneCount="1"><UUID FileName="{"ab"[c > 0]}.ome.tif">'
        f"urn:uuid:0000000{int(c > 0)}-0000-0000-0000-000000000000</UUID></TiffData>"
        for c in range(3)
    )
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    xml = xml[:start] + parts + xml[end:]
    tifffile.imwrite(tmp_path / "a.ome.tif", image[..., 0], **GRAY, tile=(64, 64), description=xml, metadata=None)
    assert "a.ome.tif" in refused(tmp_path / "a.ome.tif")


TILED_SCALE = {"photometric": "rgb", "tile": (64, 64)}
CM, INCH, NO_UNIT = 3, 2, 1


def mpp_of(path: Path, image: NDArray[np.uint8], **how: Any) -> float | None:
    tifffile.imwrite(path, image, **TILED_SCALE, **how)
    return open_slide(path).mpp


@pytest.mark.parametrize(
    ("per_unit", "unit", "mpp"),
    [
        ((20_000, 20_000), CM, 0.5),
        ((50_800, 50_800), INCH, 0.5),
        ((20_000, 20_000), NO_UNIT, None),
        ((72, 72), INCH, None),
        ((300, 300), INCH, None),
        ((20_000, 10_000), CM, None),
        ((1, 1), CM, None),
    ],
)
def test_resolution_tags(
    tmp_path: Path, image: NDArray[np.uint8], per_unit: tuple[int, int], unit: int, mpp: float | None
) -> None:
    found = mpp_of(tmp_path / "a.tif", image, resolution=per_unit, resolutionunit=unit)
    assert found == (None if mpp is None else pytest.approx(mpp))


def test_no_resolution_at_all(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    assert mpp_of(tmp_path / "a.tif", image) is None


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [(0.25, "\u00b5m", 0.25), (250, "nm", 0.25), (0.00025, "mm", 0.25), (1, "pixel", None), (30, "\u00b5m", None)],
)
def test_ome_metadata(tmp_path: Path, image: NDArray[np.uint8], size: float, unit: str, mpp: float | None) -> None:
    stated = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
    found = mpp_of(tmp_path / "a.ome.tif", image, metadata={"axes": "YXS", **stated})
    assert found == (None if mpp is None else pytest.approx(mpp))


def test_ome_without_sizes(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    assert mpp_of(tmp_path / "a.ome.tif", image, metadata={"axes": "YXS"}) is None


@pytest.mark.parametrize("inside", ["<Image>text</Image>", "<Image/><Image/>", "text"])
def test_ome_whose_elements_hold_only_text(tmp_path: Path, image: NDArray[np.uint8], inside: str) -> None:
    assert mpp_of(tmp_path / "a.tif", image, description=f"<OME>{inside}</OME>", metadata=None) is None


def test_a_scanner_states_its_scale(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    description = "Aperio Image Library v12.0.15 \n|AppMag = 40|MPP = 0.2511"
    assert mpp_of(tmp_path / "a.svs", image, description=description, metadata=None) == pytest.approx(0.2511)


@pytest.mark.parametrize(
    ("x", "y", "mpp"),
    [
        (0.5, 0.5, 0.5),
        (0.5, None, 0.5),
        (0.5, 0.504, 0.5),
        (0.5, 0.51, None),
        (None, 0.5, None),
        (0.04, 0.04, None),
        (6.0, 6.0, None),
        (math.nan, 0.5, None),
        (0.5, math.nan, None),
        (math.inf, None, None),
    ],
)
def test_only_square_pixels_of_a_microscope_are_plausible(x: float | None, y: float | None, mpp: float | None) -> None:
    assert plausible_mpp(x, y) == mpp


COMPRESSED = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (tifffile.TiffPageSeries, "axes"),
        (tifffile.TiffPageSeries, "dataoffset"),
        (tifffile.TiffPage, "init_decode"),
        (tifffile.TiffPage, "get_resolution"),
    ],
)
def test_what_tifffile_no_longer_has_is_a_traceback(
    tmp_path: Path, image: Rgb, owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **COMPRESSED)
    monkeypatch.delattr(owner, name)
    with pytest.raises(AttributeError, match=name):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_decoder_that_takes_other_arguments_is_a_traceback(
    tmp_path: Path, image: Rgb, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(getattr(imagecodecs, f"{codec}_encode")(image))
    monkeypatch.setattr(imagecodecs, f"{codec}_decode", lambda data: image)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        open_slide(tmp_path / "a")


def test_a_page_whose_decoder_takes_other_arguments_is_a_traceback(
    tmp_path: Path, image: Rgb, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **COMPRESSED)
    monkeypatch.setattr(tifffile.TiffPage, "decode", property(lambda page: lambda data: data))
    with pytest.raises(TypeError, match="positional argument"):
        open_slide(tmp_path / "a.tif")


def test_the_question_whose_file_it_is_hides_no_fault(
    tmp_path: Path, image: Rgb, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **COMPRESSED)
    assert not tiff.is_of_scanner(tmp_path / "a.tif")
    monkeypatch.setattr(tifffile, "TiffFile", lambda path, is_ndpi: nullcontext(object()))
    with pytest.raises(AttributeError, match="pages"):
        tiff.is_of_scanner(tmp_path / "a.tif")
    with pytest.raises(AttributeError, match="pages"):
        tiff.require_first_page(tmp_path / "a.tif", is_ndpi=False)


def test_damage_that_tifffile_meets_is_not_taken_for_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    assert not tiff.is_of_scanner(tmp_path / "a.tif")
    tiff.require_first_page(tmp_path / "a.tif", is_ndpi=False)

"""TIFF of any kind that tifffile decodes: striped, tiled, planar, BigTIFF, OME, with or without pyramid."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.slides import rgb
from spamcaf.slides.chunks import CACHE_BYTES, STRIP_CACHE_BYTES, ChunkedPixels, Grid, MappedPixels, Plane, spool

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEADER_BYTES = 8
LARGEST_TILE_PX, MAX_PAGES = 1 << 26, 1000
"""Pixels of a tile (8192 x 8192) and pages that a scanner's file may have."""
PLAUSIBLE_UM = (0.05, 5.0)
"""Scanners and microscopes lie within; what print programs write (72 or 300 dots per inch) lies far outside."""
ANISOTROPY = 0.01
UM_PER = {"nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
RESOLUTION_UNIT, XMP = 296, 700
UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}
NDPI_FORMAT = 65420
"""A tag that only Hamamatsu's files have."""
N_RGBA = 4
MINISBLACK, RGB, YCBCR = 1, 2, 6
REFUSED = {0: "grayscale", 3: "a palette image", 4: "a mask", 5: "a CMYK image"}
DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
ALPHAS = {1: rgb.Alpha.PREMULTIPLIED, 2: rgb.Alpha.STRAIGHT}
"""Values of the tag ExtraSamples that mean transparency; 0, the third, leaves the meaning open."""
LARGEST_LISTED = 2**32 - 1
JPEG = {6, 7, 33007, 34892}
CODED_AS_STORED = {1, 5, 8, 32773, 32946, 33003, 34925, 50000}
"""Compressions that keep luma and chroma as they are; the decoders of the others return colours."""


class UndecodableError(InputError):
    """A TIFF in a coding that tifffile does not know."""


def open_tiff(path: Path) -> rgb.Opened:
    """Open the largest RGB image of a TIFF; raise InputError when there is none or the file is damaged."""
    import tifffile

    with rgb.decoding(path):
        with tifffile.TiffFile(path, is_ndpi=False) as tiff:  # by default the suffix decides
            series, notes = _choose_series(path, tiff)
            pixel_array, more = _pixel_array(path, tiff, series)
            page = series.keyframe
            mpp = _ome_mpp(tiff, page) if tiff.is_ome else _tag_mpp(page)
        extra = next(iter(page.extrasamples), 0) if page.samplesperpixel == N_RGBA else 0
        is_ycbcr = page.photometric == YCBCR and page.compression in CODED_AS_STORED
        conversion, converted = rgb.conversion_of(pixel_array, ALPHAS.get(extra, rgb.Alpha.NONE), is_ycbcr)
        pixels, turned = rgb.upright(rgb.FilePixels(path, pixel_array, conversion), _orientation(page))
    return rgb.Opened(pixels, "tifffile", (*notes, *turned, *more, *converted), mpp)


def is_of_scanner(path: Path) -> bool:
    """Tell whether a TIFF is laid out by a scanner, whose tiles only OpenSlide puts in place."""
    kinds = ("is_svs", "is_scn", "is_bif", "is_philips")

    def is_named(file: TiffFile) -> bool:
        return NDPI_FORMAT in file.pages.first.tags or any(getattr(file, kind) for kind in kinds)

    return bool(_header(path, False, is_named))


def require_first_page(path: Path, is_ndpi: bool) -> None:
    """Raise InputError when the first page of a scanner's TIFF lies partly beyond the end of the file.

    And when a page has tiles beyond `LARGEST_TILE_PX`, or fewer than its description states: OpenSlide makes room for a
    tile, and reads those stated, and ends the process where it cannot.
    """

    def described(file: TiffFile) -> list[tuple[TiffPage, Any]]:
        pages = [page.aspage() for page in islice(file.pages, MAX_PAGES)]
        return [(page, page.tags.valueof(XMP)) for page in pages]

    pages = _header(path, is_ndpi, described) or []
    for page, description in pages:
        sizes = (page.tilewidth, page.tilelength)
        if not all(isinstance(size, int) for size in sizes) or math.prod(sizes) > LARGEST_TILE_PX:
            raise rgb.damaged(path, f"tiles of {str(sizes[0])[:20]} x {str(sizes[1])[:20]} px")
        if page.is_tiled and "level=0" in page.description:
            _require_grid(path, page, description)
    _require_whole(path, [page for page, _ in pages[:1]])


def _require_grid(path: Path, page: TiffPage, text: object) -> None:
    """Raise InputError where Ventana's description of a page has more tiles than the page: OpenSlide reads beyond."""
    areas = re.findall(rb"<ImageInfo\b[^>]*>", text) if isinstance(text, bytes) else []
    for area in areas:
        if b'AOIScanned="0"' in area:  # OpenSlide does not look at those
            continue
        for name, size_px, tile_px in (
            (b"NumCols", page.imagewidth, page.tilewidth),
            (b"NumRows", page.imagelength, page.tilelength),
        ):
            stated = re.search(name + rb'="(\d+)"', area)
            if stated and int(stated[1]) > -(-size_px // tile_px):
                raise rgb.damaged(path, f"{name.decode()} is {stated[1][:20].decode()}, and its page is {size_px} px")


def _header(path: Path, is_ndpi: bool, read: Callable[[TiffFile], Any]) -> Any:  # noqa: ANN401  what `read` returns
    """Return what `read` finds in a file's header; None where that is damaged, which the file's reader reports."""
    import tifffile

    try:
        with tifffile.TiffFile(path, is_ndpi=is_ndpi) as file:
            return read(file)
    except Exception as error:  # tifffile may fail in any way on a damaged header
        if is_fault_of_ours(error):
            raise
        return None


def _require_whole(path: Path, pages: list[TiffPage]) -> None:
    """Raise InputError naming the first strip or tile of `pages` that does not lie wholly inside the file."""
    size = path.stat().st_size
    for page in pages:
        try:
            offsets, counts = _extents_of(page)
        except OverflowError as error:
            raise rgb.damaged(path, "tiles or strips lie farther than any file reaches") from error
        except (ValueError, TypeError) as error:
            raise rgb.damaged(path, "the places of its tiles or strips are no numbers") from error
        if len(offsets) != len(counts):
            raise rgb.damaged(path, f"{len(offsets)} tiles or strips with {len(counts)} lengths")
        outside = np.flatnonzero((counts > 0) & ((offsets < HEADER_BYTES) | (offsets + counts > size)))
        if len(outside):
            missing = f"{len(outside)} of {len(counts)} tiles or strips lie beyond its end, from {outside[0]} on"
            raise rgb.damaged(path, f"truncated: {missing}")


def _extents_of(page: TiffPage) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offsets and byte counts of a page's strips or tiles."""
    return np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)


def plausible_mpp(x_um: float | None, y_um: float | None) -> float | None:
    """Return the pixel's side in micrometres, or None unless it is square and of a microscope's size."""
    if x_um is None or not math.isfinite(x_um) or not PLAUSIBLE_UM[0] <= x_um <= PLAUSIBLE_UM[1]:
        return None
    if y_um is not None and not abs(y_um / x_um - 1) <= ANISOTROPY:
        return None
    return x_um


def _ome_mpp(tiff: TiffFile, page: TiffPage) -> float | None:
    """Return the scale that all images of this size agree on: images and series need not be in one order."""
    from tifffile import xml2dict

    elements = [xml2dict(tiff.ome_metadata or "")]
    for name in ("OME", "Image", "Pixels"):
        elements = [element for parent in elements for element in _elements(parent, name)]
    size = (page.imagewidth, page.imagelength)
    same = [pixels for pixels in elements if (pixels.get("SizeX"), pixels.get("SizeY")) == size]
    found = {plausible_mpp(*(_ome_um(pixels, f"PhysicalSize{axis}") for axis in "XY")) for pixels in same}
    return found.pop() if len(found) == 1 else None


def _elements(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the elements of a name; one that is broken, and holds text only, is left out."""
    found = parent.get(name, [])
    return [element for element in (found if isinstance(found, list) else [found]) if isinstance(element, dict)]


def _ome_um(pixels: dict[str, Any], key: str) -> float | None:
    um, value = UM_PER.get(str(pixels.get(f"{key}Unit", "um"))), pixels.get(key)
    return float(value) * um if um is not None and isinstance(value, (int, float)) else None


def _tag_mpp(page: TiffPage) -> float | None:
    um = UM_PER_RESOLUTION_UNIT.get(int(page.tags.valueof(RESOLUTION_UNIT, 0)))
    x, y = page.get_resolution()
    return None if um is None or x <= 0 or y <= 0 else plausible_mpp(um / x, um / y)


def _choose_series(path: Path, tiff: TiffFile) -> tuple[TiffPageSeries, list[str]]:
    """Return the largest image, and notes of the choice; a smaller RGB image never stands in for a larger other one."""
    areas = {s: area for s in tiff.series if (area := _size(s, "YX", absent=0)) > 0}
    if not areas:
        raise rgb.damaged(path, "no image in it")
    refusals = [(s, _refusal(s)) for s, area in areas.items() if area == max(areas.values())]
    images = [s for s, refusal in refusals if refusal is None]
    if not images:
        raise rgb.not_h_and_e(path, str(refusals[0][1]))
    if len(images) > 1:
        raise InputError(
            f"{len(images)} colour images of the same size in {path.name}.",
            "one that is the largest.",
            "Export the H&E image alone.",
        )
    notes = [] if len(areas) == 1 else [f"the largest of {len(areas)} images"]
    if images[0].keyframe.photometric == MINISBLACK:
        notes.append("its three channels, declared gray, are taken as red, green and blue")
    return images[0], notes


def _size(series: TiffPageSeries, axes: str, absent: int) -> int:
    """Return the product of the lengths of a series' axes; those of length 1 may be left out, save Y and X."""
    lengths = dict(zip(series.axes, series.shape, strict=True))
    return math.prod(int(lengths.get(axis, absent)) for axis in axes)


def _refusal(series: TiffPageSeries) -> str | None:
    """Return why a series cannot be a colour image, or None: what it is, to follow '<name> is'."""
    page = series.keyframe
    stated = f"axes {series.axes}, shape {tuple(series.shape)}"
    if series.dtype not in DTYPES:
        return f"of {series.dtype} values"
    if page.photometric in REFUSED:
        return REFUSED[page.photometric]
    if page.photometric not in {MINISBLACK, RGB, YCBCR}:
        return f"in the colour space {getattr(page.photometric, 'name', page.photometric)}"
    is_stack = any(n > 1 for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXSC")
    if is_stack or page.shaped[1] > 1:
        return f"a stack of images ({stated}), whose axes do not state that they are colours"
    return _refusal_of_channels(series, stated)


def _refusal_of_channels(series: TiffPageSeries, stated: str) -> str | None:
    page, n_pages, n_channels = series.keyframe, len(series), _size(series, "SC", absent=1)
    n_samples = page.samplesperpixel
    if n_channels == 1:
        return "grayscale"
    if n_channels == N_RGBA and n_samples == N_RGBA and page.photometric == RGB and len(page.extrasamples) <= 1:
        return None
    if n_channels != rgb.N_RGB:
        return f"an image of {n_channels} channels ({stated}), such as fluorescence"
    return None if n_pages in {1, n_channels // n_samples} else f"an image in {n_pages} parts ({stated})"


def _pixel_array(path: Path, tiff: TiffFile, series: TiffPageSeries) -> tuple[rgb.PixelArray, list[str]]:
    found = _own_pages(path, tiff, series)
    offset = series.dataoffset
    if offset is not None:
        return _mapped(path, tiff, series, offset), []
    pages = [page.aspage() if page.is_frame else page for page in found]
    _require_whole(path, pages)
    page = series.keyframe
    size = (page.imagelength, page.imagewidth)
    chunk = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, size[0]), size[1])
    grid = Grid(size, chunk)
    planes = [plane for page in pages for plane in _planes(path, page, grid)]
    page.init_decode()
    pixel_array = ChunkedPixels(path, grid, planes, page.decode, np.dtype(series.dtype))
    absent = np.concatenate([plane.counts == 0 for plane in planes])
    if absent.all():
        raise rgb.damaged(path, "none of its tiles was ever written")
    notes = [f"{absent.sum()} of {len(absent)} tiles were never written and are white"] if absent.any() else []
    _probe(path, pixel_array, planes, page)
    if not _is_impractical(pixel_array, page):
        return pixel_array, notes
    spooled, note = spool(path, pixel_array.shape, pixel_array.dtype, pixel_array.read_all)
    return spooled, [*notes, note]


def _own_pages(path: Path, tiff: TiffFile, series: TiffPageSeries) -> list[Any]:
    """Return the pages and frames of an image; raise InputError when it is spread over files, as an OME-TIFF may be."""
    pages: list[Any] = list(series)
    if None in pages:
        raise rgb.damaged(path, "a channel is missing")
    for page in pages:
        if page.parent.filehandle.path != tiff.filehandle.path:
            raise rgb.not_h_and_e(path, f"a part of an image whose pixels lie in {page.parent.filehandle.name}")
    return pages


def _mapped(path: Path, tiff: TiffFile, series: TiffPageSeries, offset: int) -> MappedPixels:
    page, dtype = series.keyframe, np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    kept = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"]
    axes = "".join(axis for axis, _ in kept).replace("C", "S")
    shape = tuple(n for _, n in kept)
    # above 4 GiB the listed numbers may have run over
    is_short = sum(page.databytecounts) < page.nbytes <= LARGEST_LISTED
    if offset < HEADER_BYTES or is_short:
        raise rgb.damaged(path, "its pixels were never written, or not all of them")
    missing = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - path.stat().st_size
    if missing > 0:
        raise rgb.damaged(path, f"truncated: the last {missing} bytes of the pixels lie beyond its end")
    return MappedPixels(path.open("rb"), offset, dtype, shape, axes)


def _planes(path: Path, page: TiffPage, grid: Grid) -> list[Plane]:
    """Return one plane for interleaved channels, and one per channel for separate ones."""
    offsets, counts = _extents_of(page)
    n_needed, channels = grid.n_chunks * page.shaped[0], page.shaped[4]
    if len(offsets) != n_needed or len(counts) != len(offsets):
        raise rgb.damaged(path, f"{len(offsets)} tiles or strips are listed and {n_needed} needed")
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
    parts = [slice(start, start + grid.n_chunks) for start in range(0, n_needed, grid.n_chunks)]
    return [Plane(offsets[part], counts[part], part.start, channels, tables) for part in parts]


def _probe(path: Path, pixel_array: ChunkedPixels, planes: list[Plane], page: TiffPage) -> None:
    """Decode one chunk; raise UndecodableError for an unknown coding, but not where OpenSlide would turn each tile."""
    import tifffile

    x, y = pixel_array.grid.corner(int(np.argmax(planes[0].counts > 0)))
    try:
        pixel_array.read(x, y, 1, 1)
    except InputError as error:
        unknown = isinstance(error.__cause__, (ValueError, NotImplementedError))
        if unknown and not isinstance(error.__cause__, tifffile.TiffFileError):
            kind = UndecodableError if rgb.turn_of(_orientation(page)) is None else InputError
            raise kind(
                f"{path.name} in a coding that is not read ({error.__cause__}).",
                "a TIFF that tifffile decodes.",
                "Convert the image to a tiled TIFF with deflate or JPEG.",
            ) from error
        raise


def _is_impractical(pixel_array: ChunkedPixels, page: TiffPage) -> bool:
    """Tell whether windows would decode too much: one chunk fills the memory, or each window of a band needs all.

    The strips of an image that is turned by a quarter are columns: a band of windows from left to right touches all.
    """
    turn = rgb.turn_of(_orientation(page))
    is_across = turn is not None and turn.transposes and pixel_array.grid.is_striped
    n_bytes = int(np.prod(pixel_array.shape)) * pixel_array.dtype.itemsize
    return pixel_array.chunk_bytes > CACHE_BYTES or (is_across and n_bytes > STRIP_CACHE_BYTES)


def _orientation(page: TiffPage) -> object:
    return page.tags.valueof(rgb.ORIENTATION)

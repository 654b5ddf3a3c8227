"""TIFF of any kind that tifffile decodes: striped, tiled, planar, BigTIFF, OME, with or without pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.slides.channels import Alpha, conversion_of
from spamcaf.datasets.slides.chunks import CACHE_BYTES, STRIP_CACHE_BYTES, ChunkedRaster, Grid, Plane
from spamcaf.datasets.slides.extents import HEADER_BYTES, extents_of, require_whole
from spamcaf.datasets.slides.mapped import MappedRaster, spool
from spamcaf.datasets.slides.pixels import FilePixels, Opened, Raster, damaged, not_h_and_e
from spamcaf.datasets.slides.scale import stated_mpp
from spamcaf.datasets.slides.series import N_RGBA, choose_series, sizes_of
from spamcaf.datasets.slides.turned import ORIENTATION, turn_of, upright
from spamcaf.errors import InputError, is_fault_of_ours

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
YCBCR = 6
ALPHAS = {1: Alpha.PREMULTIPLIED, 2: Alpha.STRAIGHT}
"""Values of the tag ExtraSamples that mean transparency; 0, the third, leaves the meaning open."""
LARGEST_LISTED = 2**32 - 1
JPEG = {6, 7, 33007, 34892}
CODED_AS_STORED = {1, 5, 8, 32773, 32946, 33003, 34925, 50000}
"""Compressions that keep luma and chroma as they are; the decoders of the others return colours."""


class UndecodableError(InputError):
    """A TIFF in a coding that tifffile does not know."""


def open_tiff(path: Path) -> Opened:
    """Open the largest RGB image of a TIFF; raise InputError when there is none or the file is damaged."""
    import tifffile

    try:
        with tifffile.TiffFile(path, is_ndpi=False) as tiff:  # by default the suffix decides
            series, notes = choose_series(path, tiff)
            raster, more = _raster(path, tiff, series)
            mpp = stated_mpp(tiff, series)
            page = series.keyframe
        conversion, converted = conversion_of(raster, _alpha(page), _is_ycbcr(page))
        pixels, turned = upright(FilePixels(path, raster, conversion), _orientation(page))
    except InputError:
        raise
    except Exception as error:  # tifffile may fail in any way on a damaged header
        if is_fault_of_ours(error):
            raise
        raise damaged(path, str(error) or type(error).__name__) from error
    return Opened(pixels, "tifffile", (*notes, *turned, *more, *converted), mpp)


def _raster(path: Path, tiff: TiffFile, series: TiffPageSeries) -> tuple[Raster, list[str]]:
    found = _own_pages(path, tiff, series)
    offset = series.dataoffset
    if offset is not None:
        return _mapped(path, tiff, series, offset), []
    pages = [page.aspage() if page.is_frame else page for page in found]
    require_whole(path, pages)
    keyframe = series.keyframe
    grid = Grid((keyframe.imagelength, keyframe.imagewidth), _chunk_shape(keyframe))
    planes = [plane for page in pages for plane in _planes(path, page, grid)]
    keyframe.init_decode()
    raster = ChunkedRaster(path, grid, planes, keyframe.decode, np.dtype(series.dtype))
    notes = _sparse(path, planes)
    _probe(path, raster, grid, planes, keyframe)
    if not _is_impractical(raster, int(np.prod(grid.chunk)) * planes[0].channels, keyframe):
        return raster, notes
    spooled, note = spool(path, raster.shape, raster.dtype, lambda samples: _decode_all(raster, grid, samples))
    return spooled, [*notes, note]


def _is_impractical(raster: ChunkedRaster, chunk_samples: int, page: TiffPage) -> bool:
    """Tell whether windows would decode too much: one chunk fills the memory, or each window of a band needs all.

    The strips of an image that is turned by a quarter are columns: a band of windows from left to right touches all.
    """
    turn, size = turn_of(_orientation(page)), raster.dtype.itemsize
    is_across = turn is not None and turn.transposes and raster.is_striped
    return chunk_samples * size > CACHE_BYTES or (is_across and int(np.prod(raster.shape)) * size > STRIP_CACHE_BYTES)


def _mapped(path: Path, tiff: TiffFile, series: TiffPageSeries, offset: int) -> MappedRaster:
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    kept = [(axis, n) for axis, n in sizes_of(series) if n > 1 or axis in "YX"]
    axes = "".join(axis for axis, _ in kept).replace("C", "S")
    shape = tuple(n for _, n in kept)
    if offset < HEADER_BYTES or _is_short(series.keyframe):
        raise damaged(path, "its pixels were never written, or not all of them")
    missing = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize - path.stat().st_size
    if missing > 0:
        raise damaged(path, f"truncated: the last {missing} bytes of the pixels lie beyond its end")
    return MappedRaster(path.open("rb"), offset, dtype, shape, axes)


def _is_short(page: TiffPage) -> bool:
    """Tell whether a page lists fewer bytes than it has pixels; above 4 GiB the numbers may have run over."""
    return sum(page.databytecounts) < page.nbytes <= LARGEST_LISTED


def _own_pages(path: Path, tiff: TiffFile, series: TiffPageSeries) -> list[Any]:
    """Return the pages and frames of an image; raise InputError when it is spread over files, as an OME-TIFF may be."""
    pages: list[Any] = list(series)
    if None in pages:
        raise damaged(path, "a channel is missing")
    for page in pages:
        if page.parent.filehandle.path != tiff.filehandle.path:
            raise not_h_and_e(path, f"a part of an image whose pixels lie in {page.parent.filehandle.name}")
    return pages


def _planes(path: Path, page: TiffPage, grid: Grid) -> list[Plane]:
    """Return one plane for interleaved channels, and one per channel for separate ones."""
    offsets, counts = extents_of(page)
    n_separate, channels = page.shaped[0], page.shaped[4]
    if len(offsets) != grid.n_chunks * n_separate or len(counts) != len(offsets):
        raise damaged(path, f"{len(offsets)} tiles or strips are listed and {grid.n_chunks * n_separate} needed")
    decoding = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
    starts = range(0, len(offsets), grid.n_chunks)
    parts = [slice(start, start + grid.n_chunks) for start in starts]
    return [Plane(offsets[part], counts[part], part.start, channels, decoding) for part in parts]


def _chunk_shape(page: TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _sparse(path: Path, planes: list[Plane]) -> list[str]:
    absent = np.concatenate([plane.counts == 0 for plane in planes])
    if absent.all():
        raise damaged(path, "none of its tiles was ever written")
    return [f"{absent.sum()} of {len(absent)} tiles were never written and are white"] if absent.any() else []


def _probe(path: Path, raster: ChunkedRaster, grid: Grid, planes: list[Plane], page: TiffPage) -> None:
    """Decode one chunk; raise UndecodableError when tifffile does not know the coding.

    For an image that is turned it is no UndecodableError, which OpenSlide gets to try: that turns each tile by itself.
    """
    import tifffile

    x, y = grid.corner(int(np.argmax(planes[0].counts > 0)))
    try:
        raster.read(x, y, 1, 1)
    except InputError as error:
        unknown = isinstance(error.__cause__, (ValueError, NotImplementedError))
        if unknown and not isinstance(error.__cause__, tifffile.TiffFileError):
            kind = UndecodableError if turn_of(_orientation(page)) is None else InputError
            raise kind(
                f"{path.name} in a coding that is not read ({error.__cause__}).",
                "a TIFF that tifffile decodes.",
                "Convert the image to a tiled TIFF with deflate or JPEG.",
            ) from error
        raise


def _decode_all(raster: ChunkedRaster, grid: Grid, samples: np.ndarray) -> None:
    for top in range(0, grid.shape[0], grid.chunk[0]):
        raster.read_into(samples[top : top + grid.chunk[0]], 0, top)


def _alpha(page: TiffPage) -> Alpha:
    if page.samplesperpixel != N_RGBA or not page.extrasamples:
        return Alpha.NONE
    return ALPHAS.get(page.extrasamples[0], Alpha.NONE)


def _is_ycbcr(page: TiffPage) -> bool:
    return page.photometric == YCBCR and page.compression in CODED_AS_STORED


def _orientation(page: TiffPage) -> object:
    return page.tags.valueof(ORIENTATION)

"""TIFF of any kind that tifffile decodes: striped, tiled, planar, BigTIFF, OME, with or without pyramid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.slides.channels import Alpha, conversion_of
from spamcaf.datasets.slides.chunks import CACHE_BYTES, ChunkedRaster, Grid, Plane
from spamcaf.datasets.slides.extents import HEADER_BYTES, extents_of, require_whole
from spamcaf.datasets.slides.mapped import MappedRaster, spool
from spamcaf.datasets.slides.pixels import FilePixels, Opened, Raster, damaged, not_h_and_e
from spamcaf.datasets.slides.scale import stated_mpp
from spamcaf.datasets.slides.series import choose_series, has_alpha
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
YCBCR, PREMULTIPLIED, ORIENTATION, UPRIGHT = 6, 1, 274, 1
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
        conversion, converted = conversion_of(raster, _alpha(series.keyframe), _is_ycbcr(series.keyframe))
    except InputError:
        raise
    except Exception as error:  # tifffile may fail in any way on a damaged header
        raise damaged(path, str(error) or type(error).__name__) from error
    return Opened(FilePixels(path, raster, conversion), "tifffile", (*notes, *more, *converted), mpp)


def _raster(path: Path, tiff: TiffFile, series: TiffPageSeries) -> tuple[Raster, list[str]]:
    notes = _orientation(series.keyframe)
    found = _own_pages(path, tiff, series)
    offset = series.dataoffset
    if offset is not None:
        return _mapped(path, tiff, series, offset), notes
    pages = [page.aspage() if page.is_frame else page for page in found]
    require_whole(path, pages)
    keyframe = series.keyframe
    grid = Grid((keyframe.imagelength, keyframe.imagewidth), _chunk_shape(keyframe))
    planes = [plane for page in pages for plane in _planes(path, page, grid)]
    keyframe.init_decode()
    raster = ChunkedRaster(path, grid, planes, keyframe.decode, np.dtype(series.dtype))
    notes += _sparse(path, planes)
    _probe(path, raster, grid, planes)
    if int(np.prod(grid.chunk)) * planes[0].channels * raster.dtype.itemsize <= CACHE_BYTES:
        return raster, notes
    spooled, note = spool(path, raster.shape, raster.dtype, lambda samples: _decode_all(raster, grid, samples))
    return spooled, [*notes, note]


def _mapped(path: Path, tiff: TiffFile, series: TiffPageSeries, offset: int) -> MappedRaster:
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    kept = [(axis, n) for axis, n in zip(series.get_axes(False), series.get_shape(False), strict=True) if n > 1]
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


def _probe(path: Path, raster: ChunkedRaster, grid: Grid, planes: list[Plane]) -> None:
    """Decode one chunk; raise UndecodableError when tifffile does not know the coding."""
    import tifffile

    x, y = grid.corner(int(np.argmax(planes[0].counts > 0)))
    try:
        raster.read(x, y, 1, 1)
    except InputError as error:
        unknown = isinstance(error.__cause__, (ValueError, NotImplementedError))
        if unknown and not isinstance(error.__cause__, tifffile.TiffFileError):
            raise UndecodableError(
                f"{path.name} in a coding that is not read ({error.__cause__}).",
                "a TIFF that tifffile decodes.",
                "Convert the image to a tiled TIFF with deflate or JPEG.",
            ) from error
        raise


def _decode_all(raster: ChunkedRaster, grid: Grid, samples: np.ndarray) -> None:
    for top in range(0, grid.shape[0], grid.chunk[0]):
        raster.read_into(samples[top : top + grid.chunk[0]], 0, top)


def _alpha(page: TiffPage) -> Alpha:
    if not has_alpha(page):
        return Alpha.NONE
    return Alpha.PREMULTIPLIED if page.extrasamples[0] == PREMULTIPLIED else Alpha.STRAIGHT


def _is_ycbcr(page: TiffPage) -> bool:
    return page.photometric == YCBCR and page.compression in CODED_AS_STORED


def _orientation(page: TiffPage) -> list[str]:
    orientation = page.tags.valueof(ORIENTATION, UPRIGHT)
    return [] if orientation == UPRIGHT else [f"orientation {int(orientation)} is not applied"]

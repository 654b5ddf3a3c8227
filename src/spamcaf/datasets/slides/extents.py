"""Where the strips and tiles of a TIFF lie, checked against the file before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.slides.pixels import damaged
from spamcaf.errors import is_fault_of_ours

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tifffile import TiffPage

HEADER_BYTES = 8
NDPI_FORMAT = 65420
"""A tag that only Hamamatsu's files have."""


def extents_of(page: TiffPage) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offsets and byte counts of a page's strips or tiles."""
    return np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)


def require_whole(path: Path, pages: list[TiffPage]) -> None:
    """Raise InputError naming the first strip or tile of `pages` that does not lie wholly inside the file."""
    size = path.stat().st_size
    for page in pages:
        try:
            offsets, counts = extents_of(page)
        except OverflowError as error:
            raise damaged(path, "tiles or strips lie farther than any file reaches") from error
        if len(offsets) != len(counts):
            raise damaged(path, f"{len(offsets)} tiles or strips with {len(counts)} lengths")
        outside = np.flatnonzero((counts > 0) & ((offsets < HEADER_BYTES) | (offsets + counts > size)))
        if len(outside):
            first = int(outside[0])
            raise damaged(
                path, f"truncated: {len(outside)} of {len(counts)} tiles or strips lie beyond its end, from {first} on"
            )


def is_of_scanner(path: Path) -> bool:
    """Tell whether a TIFF is laid out by a scanner, whose tiles only OpenSlide puts in place."""
    import tifffile

    try:
        with tifffile.TiffFile(path, is_ndpi=False) as file:
            is_ndpi = NDPI_FORMAT in file.pages.first.tags
            return any((is_ndpi, file.is_svs, file.is_scn, file.is_bif, file.is_philips))
    except Exception as error:  # tifffile may fail in any way on a damaged header; the reader will say so
        if is_fault_of_ours(error):
            raise
        return False


def require_first_page(path: Path, is_ndpi: bool) -> None:
    """Raise InputError when the first page of a scanner's TIFF lies partly beyond the end of the file."""
    import tifffile

    try:
        with tifffile.TiffFile(path, is_ndpi=is_ndpi) as file:
            pages = [file.pages.first]
    except Exception as error:  # OpenSlide knows the format better
        if is_fault_of_ours(error):
            raise
        return
    require_whole(path, pages)

"""Opening the full-resolution image of a section as a lazy slide: the reader is chosen by content."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from spamcaf.errors import InputError
from spamcaf.histology.slide import Pixels, Slide
from spamcaf.slides import openslide, tiff, whole
from spamcaf.slides.chunks import ChunkedPixels
from spamcaf.slides.rgb import FilePixels, Opened, TurnedPixels, damaged

logger = logging.getLogger(__name__)

SCANNER_SUFFIXES = frozenset({".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide"})
IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8", ".jpg", ".jpeg", ".png"}) | SCANNER_SUFFIXES
"""What an image that is read may be called, for those who look for one. The content decides how it is read."""
IN_A_FOLDER = {".mrxs", ".vms", ".vmu"}
"""Files whose pixels lie in a folder beside them: alone they are a preview, often a whole JPEG, or an index."""


def open_slide(path: Path) -> Slide:
    """Open an image, lazily where its format allows it, and log which library reads it.

    Parameters
    ----------
    path
        A TIFF of any kind, a JPEG, a PNG, or a slide of a scanner that OpenSlide reads.

    Returns
    -------
    Slide
        Upright, RGB uint8; `notes` tells what was chosen or converted.

    Raises
    ------
    InputError
        When the file is missing, damaged, or not an RGB image of 8 or 16 bits.
    """
    if not path.is_file():
        raise InputError(f"no image {path}.", "the full-resolution H&E image.", "Check raw_root and the image's name.")
    opened = _open(path)
    rows, columns = opened.pixels.shape
    notes = "".join(f"; {note}" for note in opened.notes)
    logger.info("%s: %d x %d px, read by %s%s", path.name, columns, rows, opened.reader, notes)
    reopen, is_striped = partial(open_slide, path), _is_striped(opened.pixels)
    return Slide(opened.pixels, path.name, opened.mpp, opened.reader, opened.notes, reopen, is_striped)


def _is_striped(pixels: Pixels) -> bool:
    if isinstance(pixels, TurnedPixels):
        return not pixels.turn.transposes and _is_striped(pixels.stored)
    array = pixels.pixel_array if isinstance(pixels, FilePixels) else None
    return isinstance(array, ChunkedPixels) and array.grid.is_striped


def _open(path: Path) -> Opened:
    vendor = openslide.vendor_of(path)
    with path.open("rb") as file:
        head = file.read(16)
    is_tiff = head.startswith(tiff.MAGIC)
    if vendor not in {None, openslide.GENERIC}:
        if is_tiff:
            tiff.require_first_page(path, is_ndpi=vendor == "hamamatsu")
        return openslide.open_scanned(path, str(vendor))
    if is_tiff:
        return _open_tiff(path, vendor)
    if head.startswith(whole.PNG_MAGIC):
        return whole.open_png(path)
    # a slide of a scanner that OpenSlide, if it is installed at all, did not recognise
    if path.suffix.lower() in SCANNER_SUFFIXES and not openslide.is_installed():
        raise openslide.MissingLibraryError(path)
    if path.suffix.lower() in IN_A_FOLDER:
        raise damaged(path, "OpenSlide does not find the files that belong to it in the folder beside it")
    if head.startswith(whole.JPEG_MAGIC):
        return whole.open_jpeg(path)
    raise InputError(
        f"{path.name} of a kind that is not read.",
        "a TIFF, JPEG or PNG, or a slide of a scanner that OpenSlide reads.",
        "Convert the image, for example to a tiled TIFF.",
    )


def _open_tiff(path: Path, vendor: str | None) -> Opened:
    if not openslide.is_installed() and tiff.is_of_scanner(path):
        raise openslide.MissingLibraryError(path)
    try:
        return tiff.open_tiff(path)
    except tiff.UndecodableError:
        if vendor is None:
            raise
        return openslide.open_scanned(path, vendor)

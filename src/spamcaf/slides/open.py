"""Opening the image of a section as a lazy slide, by its content: scanner formats are read through OpenSlide."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import Pixels, Slide
from spamcaf.limits import MIB, require_regular
from spamcaf.slides import tiff, whole
from spamcaf.slides.chunks import CACHE_BYTES, ChunkedPixels
from spamcaf.slides.rgb import Alpha, Conversion, FilePixels, Opened, TurnedPixels, damaged, fingerprint_of
from spamcaf.slides.tiff import plausible_mpp

logger = logging.getLogger(__name__)

SCANNER_SUFFIXES = frozenset({".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide"})
IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8", ".jpg", ".jpeg", ".png"}) | SCANNER_SUFFIXES
"""What an image that is read may be called, for those who look for one. The content decides how it is read."""
IN_A_FOLDER = {".mrxs", ".vms", ".vmu"}
"""Files whose pixels lie in a folder beside them: alone they are a preview, often a whole JPEG, or an index."""
GENERIC = "generic-tiff"
OVER_WHITE = Conversion(Alpha.STRAIGHT)


def is_installed() -> bool:
    """Tell whether OpenSlide can be used here."""
    try:
        import openslide  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def vendor_of(path: Path) -> str | None:
    """Return the scanner format of a file by its content (`generic-tiff` for tiled ones of no vendor), or None."""
    if not is_installed():
        return None
    import openslide

    return openslide.OpenSlide.detect_format(path)


def open_scanned(path: Path, vendor: str) -> Opened:
    """Open the full resolution of a scanned slide; raise InputError when OpenSlide cannot."""
    import openslide

    try:
        handle = openslide.OpenSlide(path)
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
    except openslide.OpenSlideError as error:
        raise damaged(path, error) from error
    mpp = plausible_mpp(_number(handle, "openslide.mpp-x"), _number(handle, "openslide.mpp-y"))
    return Opened(ScannedPixels(path, handle), f"OpenSlide ({vendor})", (), mpp)


@dataclass(frozen=True)
class ScannedPixels:
    """The first level of a scanned slide. OpenSlide reads from several threads at once."""

    path: Path
    handle: Any

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        columns, rows = self.handle.dimensions
        return rows, columns

    @cached_property
    def fingerprint(self) -> str:
        """The file's, and OpenSlide's own: a slide may be a folder beside the file."""
        return f"{fingerprint_of(self.path)}-{self.handle.properties.get('openslide.quickhash-1', '')[:16]}"

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the window; what was not scanned is white."""
        import openslide

        try:
            window = np.asarray(self.handle.read_region((x0, y0), 0, (width, height)))
        except openslide.OpenSlideError as error:
            raise damaged(self.path, f"near pixel ({x0}, {y0}): {error}") from error
        return OVER_WHITE.to_rgb(window)


def _number(handle: Any, key: str) -> float | None:  # noqa: ANN401  openslide is imported where it is used
    try:
        return float(handle.properties[key])
    except (KeyError, ValueError):
        return None


def require_image(path: Path) -> None:
    """Raise InputError where there is no such file."""
    if not path.exists():
        raise InputError(f"no image {path}.", "the full-resolution H&E image.", "Check the image's path.")
    require_regular(path)


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
    require_image(path)
    opened = _open(path)
    rows, columns = opened.pixels.shape
    if min(rows, columns) < 1:
        raise damaged(path, f"{rows} x {columns} px")
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
    vendor = vendor_of(path)
    with path.open("rb") as file:
        head = file.read(16)
    is_tiff = head.startswith(tiff.MAGIC)
    if vendor not in {None, GENERIC}:
        if is_tiff:
            tiff.require_first_page(path, is_ndpi=vendor == "hamamatsu")
        else:
            _require_regular_parts(path)
        return open_scanned(path, str(vendor))
    if is_tiff:
        return _open_tiff(path, vendor)
    if head.startswith(whole.PNG_MAGIC):
        return whole.open_png(path)
    # a slide of a scanner that OpenSlide, if it is installed at all, did not recognise
    if path.suffix.lower() in SCANNER_SUFFIXES and not is_installed():
        raise _no_openslide(path)
    if path.suffix.lower() in IN_A_FOLDER:
        raise damaged(path, "OpenSlide does not find the files that belong to it in the folder beside it")
    if head.startswith(whole.JPEG_MAGIC):
        return whole.open_jpeg(path)
    raise InputError(
        f"{path.name} of a kind that is not read.",
        "a TIFF, JPEG or PNG, or a slide of a scanner that OpenSlide reads.",
        "Convert the image, for example to a tiled TIFF.",
    )


def _require_regular_parts(path: Path) -> None:
    """Raise InputError where a part of a slide of several files is a pipe or device, on which OpenSlide would wait."""
    folder = path.with_suffix("")
    if folder.is_dir():
        parts = list(folder.iterdir())
    else:  # the index names its parts
        with path.open("rb") as file:
            index = file.read(MIB)
        parts = [part for part in path.parent.iterdir() if os.fsencode(part.name) in index]
    for part in parts:
        if part.exists() and not part.is_dir():
            require_regular(part)


def _no_openslide(path: Path) -> InputError:
    return InputError(
        f"{path.name} of a scanner, and no OpenSlide to read it.",
        "the OpenSlide library.",
        "Install it: pip install openslide-python openslide-bin.",
    )


def _open_tiff(path: Path, vendor: str | None) -> Opened:
    if not is_installed() and tiff.is_of_scanner(path):
        raise _no_openslide(path)
    try:
        return tiff.open_tiff(path)
    except tiff.UndecodableError:
        if vendor is None:
            raise
        return open_scanned(path, vendor)

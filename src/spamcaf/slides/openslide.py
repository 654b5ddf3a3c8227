"""Scanner formats, through OpenSlide: svs, ndpi, scn, mrxs, vms, bif, Philips and others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.slides.rgb import Alpha, Conversion, Opened, damaged, fingerprint_of
from spamcaf.slides.tiff import plausible_mpp

GENERIC = "generic-tiff"
OVER_WHITE = Conversion(Alpha.STRAIGHT)
CACHE_BYTES = 128 << 20


class MissingLibraryError(InputError):
    """OpenSlide is needed and not installed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path.name} of a scanner, and no OpenSlide to read it.",
            "the OpenSlide library.",
            "Install it: pip install openslide-python openslide-bin.",
        )


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

    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


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

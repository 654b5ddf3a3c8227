"""Micrometres per pixel as a TIFF states them, where that can be relied on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

PLAUSIBLE_UM = (0.05, 5.0)
"""Scanners and microscopes lie within; what print programs write (72 or 300 dots per inch) lies far outside."""
ANISOTROPY = 0.01
UM_PER = {"nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
RESOLUTION_UNIT = 296
UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}


def plausible_mpp(x_um: float | None, y_um: float | None) -> float | None:
    """Return the pixel's side in micrometres, or None unless it is square and of a microscope's size."""
    if x_um is None or not math.isfinite(x_um) or not PLAUSIBLE_UM[0] <= x_um <= PLAUSIBLE_UM[1]:
        return None
    if y_um is not None and not abs(y_um / x_um - 1) <= ANISOTROPY:
        return None
    return x_um


def stated_mpp(tiff: TiffFile, series: TiffPageSeries) -> float | None:
    """Return the micrometres per pixel of an OME-TIFF's metadata, else of the resolution tags, else None."""
    if tiff.is_ome:
        return _ome_mpp(tiff, series)
    return _tag_mpp(series.keyframe)


def _ome_mpp(tiff: TiffFile, series: TiffPageSeries) -> float | None:
    """Return the scale that all images of this size agree on: images and series need not be in one order."""
    from tifffile import xml2dict

    roots = _elements(xml2dict(tiff.ome_metadata or ""), "OME")
    pixels = [p for root in roots for image in _elements(root, "Image") for p in _elements(image, "Pixels")]
    size = (series.keyframe.imagewidth, series.keyframe.imagelength)
    found = {
        plausible_mpp(_ome_um(p, "PhysicalSizeX"), _ome_um(p, "PhysicalSizeY"))
        for p in pixels
        if (p.get("SizeX"), p.get("SizeY")) == size
    }
    return found.pop() if len(found) == 1 else None


def _elements(parent: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the elements of a name; one that is broken, and holds text only, is left out."""
    found = parent.get(name, [])
    return [element for element in (found if isinstance(found, list) else [found]) if isinstance(element, dict)]


def _ome_um(pixels: dict[str, Any], key: str) -> float | None:
    um = UM_PER.get(str(pixels.get(f"{key}Unit", "um")))
    value = pixels.get(key)
    return float(value) * um if um is not None and isinstance(value, (int, float)) else None


def _tag_mpp(page: TiffPage) -> float | None:
    um = UM_PER_RESOLUTION_UNIT.get(int(page.tags.valueof(RESOLUTION_UNIT, 0)))
    x, y = page.get_resolution()
    if um is None or x <= 0 or y <= 0:
        return None
    return plausible_mpp(um / x, um / y)

"""Micrometres per pixel are believed where a microscope or scanner wrote them, and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from spamcaf.slides.open import open_slide
from spamcaf.slides.tiff import plausible_mpp

TILED = {"photometric": "rgb", "tile": (64, 64)}
CM, INCH, NO_UNIT = 3, 2, 1


def mpp_of(path: Path, image: NDArray[np.uint8], **how: Any) -> float | None:
    tifffile.imwrite(path, image, **TILED, **how)
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
    said = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
    found = mpp_of(tmp_path / "a.ome.tif", image, metadata={"axes": "YXS", **said})
    assert found == (None if mpp is None else pytest.approx(mpp))


def test_ome_without_sizes(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    assert mpp_of(tmp_path / "a.ome.tif", image, metadata={"axes": "YXS"}) is None


@pytest.mark.parametrize("inside", ["<Image>text</Image>", "<Image/><Image/>", "text"])
def test_ome_whose_elements_hold_only_text(tmp_path: Path, image: NDArray[np.uint8], inside: str) -> None:
    assert mpp_of(tmp_path / "a.tif", image, description=f"<OME>{inside}</OME>", metadata=None) is None


def test_a_scanner_says_so_itself(tmp_path: Path, image: NDArray[np.uint8]) -> None:
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

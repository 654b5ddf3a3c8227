"""Real H&E images read, count as H&E however faded or dark, and do not once their colour or ground is taken away."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import require_h_and_e
from spamcaf.slides.open import open_slide

REAL = os.environ.get("SPAMCAF_REAL_DATA")
ROOT = Path(REAL or ".")
HER2ST = sorted(ROOT.glob("her2st/ST-imgs/*/*/*.jpg")) if REAL else []
IMAGES = [*HER2ST, ROOT / "visium_mini" / "test_img.jpg"]
UM_PER_THUMBNAIL_PX, MPP = 8.0, 0.7

pytestmark = pytest.mark.skipif(not REAL, reason="SPAMCAF_REAL_DATA names no folder of real data")

Rgb = NDArray[np.uint8]


@cache
def thumbnail(path: Path) -> Rgb:
    return open_slide(path).thumbnail(UM_PER_THUMBNAIL_PX / MPP)


def changed(path: Path, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Rgb:
    return np.clip(np.rint(255 * change(thumbnail(path) / 255)), 0, 255).astype(np.uint8)


PASSES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "as it is": lambda rgb: rgb,
    "faded": lambda rgb: 0.88 + 0.12 * rgb,
    "stained twice": lambda rgb: rgb**1.8,
    "underexposed": lambda rgb: 0.6 * rgb,
    "bluish": lambda rgb: rgb * [0.7, 0.85, 1],
    "very brown": lambda rgb: rgb * [0.8, 0.6, 0.4],
}


@pytest.mark.parametrize("change", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.stem)
def test_h_and_e_passes(path: Path, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    require_h_and_e(changed(path, change))


@pytest.mark.parametrize("path", HER2ST, ids=lambda p: p.stem)
@pytest.mark.parametrize("power", [2, 3])
def test_heavily_over_stained_sections_on_glass_pass(path: Path, power: int) -> None:
    require_h_and_e(changed(path, lambda rgb: rgb**power))


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.stem)
def test_gray_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(changed(path, lambda rgb: np.repeat(rgb.mean(axis=2, keepdims=True), 3, axis=2)))


@pytest.mark.parametrize("path", HER2ST, ids=lambda p: p.stem)
def test_what_fluorescence_would_show_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match="fluorescence"):
        require_h_and_e(changed(path, lambda rgb: (1 - rgb.mean(axis=2, keepdims=True)) * [0, 0.1, 1]))


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.stem)
def test_a_window_is_where_the_thumbnail_shows_it(path: Path) -> None:
    slide = open_slide(path)
    assert slide.reader == "imagecodecs (JPEG)"
    rows, columns = slide.shape
    window, _ = slide.read(columns // 4, rows // 2, columns // 8, rows // 8)
    height, width = thumbnail(path).shape[:2]
    seen = thumbnail(path)[height // 2 : height // 2 + height // 8, width // 4 : width // 4 + width // 8]
    np.testing.assert_allclose(window.mean(axis=(0, 1)), seen.mean(axis=(0, 1)), atol=2)

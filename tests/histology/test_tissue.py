"""Stained tissue is told from glass, dust and holes are cleaned, and x and y stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tissue import find_tissue
from spamcaf.parameters import TissueSettings

STAIN = (190, 110, 160)
SETTINGS = TissueSettings()


def picture(mpp: float, glass: int = 240) -> NDArray[np.uint8]:
    """2 x 3 mm of glass with noise; tissue from x = 400 to 1400 um and y = 300 to 900 um."""
    rng = np.random.default_rng(0)
    image = np.full((round(2000 / mpp), round(3000 / mpp), 3), glass, np.uint8)
    paint(image, mpp, (400, 300, 1400, 900), STAIN)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def paint(image: NDArray[np.uint8], mpp: float, box_um: tuple[int, int, int, int], colour: object) -> None:
    x0, y0, x1, y1 = (round(v / mpp) for v in box_um)
    image[y0:y1, x0:x1] = colour


def at(points_um: list[tuple[float, float]], mpp: float) -> NDArray[np.float64]:
    return np.array(points_um, np.float64) / mpp


@pytest.mark.parametrize("mpp", [2.0, 4.0])
@pytest.mark.parametrize("glass", [240, 190])
def test_tissue_lies_where_it_was_painted(mpp: float, glass: int) -> None:
    tissue = find_tissue(Slide(ArrayPixels(picture(mpp, glass), "f"), "s"), mpp, SETTINGS)
    held = tissue.holds(
        at([(500, 400), (1300, 800), (900, 600), (300, 600), (900, 1000), (600, 1200), (2500, 600)], mpp)
    )
    assert held.tolist() == [True] * 3 + [False] * 4
    area_um2 = tissue.mask.sum() * (tissue.px_per_mask_px * mpp) ** 2
    assert area_um2 == pytest.approx(600_000, rel=0.08)
    assert tissue.px_per_mask_px * mpp == pytest.approx(8)
    assert tissue.thumbnail.shape == (*tissue.mask.shape, 3)


def test_places_outside_the_image_are_no_tissue() -> None:
    tissue = find_tissue(Slide(ArrayPixels(picture(4.0), "f"), "s"), 4.0, SETTINGS)
    assert not tissue.holds(at([(-5, 600), (900, -5), (3005, 600), (900, 2005), (1e7, 1e7)], 4.0)).any()


def test_dust_and_holes_below_the_area_vanish_and_larger_ones_stay() -> None:
    image = picture(4.0)
    paint(image, 4.0, (2000, 1500, 2120, 1620), STAIN)
    paint(image, 4.0, (2400, 1400, 2800, 1800), STAIN)
    paint(image, 4.0, (600, 500, 720, 620), 240)
    paint(image, 4.0, (900, 400, 1300, 800), 240)
    tissue = find_tissue(Slide(ArrayPixels(image, "f"), "s"), 4.0, SETTINGS)
    assert tissue.holds(at([(2060, 1560), (2600, 1600), (660, 560), (1100, 600)], 4.0)).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_one_colour_is_refused() -> None:
    with pytest.raises(InputError, match="one colour"):
        find_tissue(Slide(ArrayPixels(np.full((300, 300, 3), 240, np.uint8), "f"), "s"), 4.0, SETTINGS)


def test_gray_tissue_is_refused() -> None:
    gray = np.repeat(picture(4.0).mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    with pytest.raises(InputError, match="without colour"):
        find_tissue(Slide(ArrayPixels(gray, "f"), "s"), 4.0, SETTINGS)


def test_a_mask_is_never_finer_than_the_image() -> None:
    tissue = find_tissue(Slide(ArrayPixels(picture(20.0), "f"), "s"), 20.0, SETTINGS)
    assert tissue.px_per_mask_px == 1
    assert tissue.holds(at([(900, 600), (900, 1300)], 20.0)).tolist() == [True, False]

"""Stained tissue is separated from glass, dust and holes are cleaned, and x and y stay apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tissue import Tissue, find_tissue
from spamcaf.parameters import TissueSettings

STAIN = (190, 110, 160)
SETTINGS = TissueSettings()


def section(mpp: float, glass: int = 240) -> NDArray[np.uint8]:
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
    tissue = find_tissue(Slide(ArrayPixels(section(mpp, glass), "f"), "s"), mpp, SETTINGS)
    held = tissue.holds(
        at([(500, 400), (1300, 800), (900, 600), (300, 600), (900, 1000), (600, 1200), (2500, 600)], mpp)
    )
    assert held.tolist() == [True] * 3 + [False] * 4
    area_um2 = tissue.mask.sum() * (tissue.px_per_mask_px * mpp) ** 2
    assert area_um2 == pytest.approx(600_000, rel=0.08)
    assert tissue.px_per_mask_px * mpp == pytest.approx(8)
    assert tissue.thumbnail.shape == (*tissue.mask.shape, 3)


def test_points_outside_the_image_are_no_tissue() -> None:
    tissue = find_tissue(Slide(ArrayPixels(section(4.0), "f"), "s"), 4.0, SETTINGS)
    assert not tissue.holds(at([(-5, 600), (900, -5), (3005, 600), (900, 2005), (1e7, 1e7)], 4.0)).any()


def test_dust_and_holes_below_the_area_vanish_and_larger_ones_stay() -> None:
    image = section(4.0)
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
    gray = np.repeat(section(4.0).mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    with pytest.raises(InputError, match="without colour"):
        find_tissue(Slide(ArrayPixels(gray, "f"), "s"), 4.0, SETTINGS)


def test_a_mask_is_never_finer_than_the_image() -> None:
    tissue = find_tissue(Slide(ArrayPixels(section(20.0), "f"), "s"), 20.0, SETTINGS)
    assert tissue.px_per_mask_px == 1
    assert tissue.holds(at([(900, 600), (900, 1300)], 20.0)).tolist() == [True, False]


def found(image: NDArray[np.uint8], mpp: float = 4.0, settings: TissueSettings = SETTINGS) -> Tissue:
    return find_tissue(Slide(ArrayPixels(image.astype(np.uint8), "f"), "s"), mpp, settings)


def section_on(glass: tuple[int, int, int], stains: list[tuple[int, int, int]], noise: float = 2) -> NDArray[np.uint8]:
    """2 x 3 mm at 4 um per pixel: nuclei on one block of tissue of 600 um per stain, from x = 400 and y = 400 um on."""
    rng = np.random.default_rng(0)
    image = np.empty((500, 750, 3))
    image[:] = glass
    for i, stain in enumerate(stains):
        block = image[100:250, 100 + 150 * i : 250 + 150 * i]
        block[:] = stain
        block[rng.random(block.shape[:2]) < 0.15] *= (0.55, 0.45, 0.75)
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


def share_of_blocks(tissue: Tissue, n: int) -> list[float]:
    k = 4.0 / (tissue.px_per_mask_px * 4.0)
    cells = [
        tissue.mask[round(110 * k) : round(240 * k), round((110 + 150 * i) * k) : round((240 + 150 * i) * k)]
        for i in range(n)
    ]
    return [float(cell.mean()) for cell in cells]


def share_of_glass(tissue: Tissue) -> float:
    below = tissue.mask[round(0.6 * len(tissue.mask)) :]
    return float(below.mean())


def test_pale_tissue_stays_beside_dark_tissue() -> None:
    tissue = found(section_on((172, 175, 174), [(120, 70, 130), (158, 148, 165)]))
    assert min(share_of_blocks(tissue, 2)) > 0.99
    assert share_of_glass(tissue) == 0


@pytest.mark.parametrize("glass", [(210, 220, 200), (235, 220, 232), (215, 215, 235), (255, 255, 255), (172, 175, 174)])
def test_glass_of_any_tint_is_glass(glass: tuple[int, int, int]) -> None:
    tissue = found(section_on(glass, [(150, 110, 160), (175, 120, 165)]))
    assert min(share_of_blocks(tissue, 2)) > 0.99
    assert share_of_glass(tissue) == 0


def test_airy_tissue_stays_beside_solid_tissue_on_tinted_glass() -> None:
    """As in lung: few stained pixels per place, on glass without white balance."""
    rng = np.random.default_rng(3)
    image = section_on((210, 220, 200), [(150, 140, 155), (210, 220, 200)], noise=0)
    airy = image[100:250, 250:400]
    airy[rng.random(airy.shape[:2]) < 0.1] = (150, 140, 160)
    tissue = found((image + rng.normal(0, 3, image.shape)).clip(0, 255))
    assert min(share_of_blocks(tissue, 2)) > 0.97
    assert share_of_glass(tissue) < 0.02


def test_eosin_that_ran_out_over_the_glass_is_no_tissue() -> None:
    image = section_on((236, 225, 235), [(150, 110, 160)]).astype(float)
    y, x = np.mgrid[0:500, 0:750]
    smear = 45 * np.exp(-(((x - 420) / 120) ** 2 + ((y - 180) / 120) ** 2))
    image[..., 1] -= np.where(x >= 250, smear, 0)
    tissue = found(image.clip(0, 255))
    assert share_of_blocks(tissue, 1)[0] > 0.99
    k = 1 / tissue.px_per_mask_px
    assert tissue.mask[:, round(300 * k) :].mean() < 0.01


def test_scanner_padding_is_no_tissue() -> None:
    image = section_on((235, 232, 236), [(150, 110, 160)])
    image[:, 600:] = 0
    tissue = found(image)
    assert share_of_blocks(tissue, 1)[0] > 0.99 and share_of_glass(tissue) == 0
    assert not tissue.mask[:, round(610 / tissue.px_per_mask_px) :].any()


def test_an_image_wholly_in_tissue_is_tissue_everywhere() -> None:
    image = section_on((150, 110, 160), [(155, 115, 165)] * 2)
    rng = np.random.default_rng(1)
    nuclei = rng.random(image.shape[:2]) < 0.15
    tissue = found(np.where(nuclei[..., None], image * (0.55, 0.45, 0.75), image))
    assert tissue.mask.all()


def marked(on: list[tuple[float, float]], off: list[tuple[float, float]], image_has_tissue: bool = False) -> Tissue:
    """Spots 100 px apart on a mask of 10 px per pixel that is one thing everywhere."""
    tissue = Tissue(np.full((60, 60), image_has_tissue), np.zeros((60, 60, 3), np.uint8), 10.0)
    return tissue.marked_by_spots(np.array(on).reshape(-1, 2), np.array(off).reshape(-1, 2), 100.0)


SQUARE = [(x, y) for x in (105.0, 205.0, 305.0) for y in (105.0, 205.0, 305.0)]


def test_spots_mark_tissue_where_the_image_shows_none() -> None:
    tissue = marked(SQUARE, [])
    between = [(155, 105), (155, 155), (205, 255), (130, 280)]
    assert tissue.holds(np.array(SQUARE)).all() and tissue.holds(np.array(between)).all()
    assert not tissue.holds(np.array([(365, 205), (45, 205), (205, 375), (505, 505)])).any()


def test_spots_off_the_tissue_mark_glass_where_the_image_shows_tissue() -> None:
    off = [(405.0, y) for y in (105.0, 205.0, 305.0)] + [(505.0, y) for y in (105.0, 205.0, 305.0)]
    tissue = marked(SQUARE, off, image_has_tissue=True)
    assert tissue.holds(np.array(SQUARE)).all()
    assert not tissue.holds(np.array(off)).any() and not tissue.holds(np.array([(385, 205), (455, 255)])).any()
    assert tissue.holds(np.array([(355, 205)])).all(), "half-way the image decides"
    assert not marked(SQUARE, off).holds(np.array([(355, 205)])).any(), "half-way the image decides"
    assert tissue.holds(np.array([(55, 55)])).all(), "beyond the spots the image decides"


def test_spots_that_fill_the_image_mark_all_of_it() -> None:
    tissue = Tissue(np.zeros((30, 30), bool), np.zeros((30, 30, 3), np.uint8), 10.0)
    spots = np.array([(x, y) for x in range(5, 300, 50) for y in range(5, 300, 50)], float)
    full = tissue.marked_by_spots(spots, np.empty((0, 2)), 100.0)
    assert full.mask.all()


def test_spots_outside_the_image_do_no_harm() -> None:
    assert marked([(-500.0, 100.0), (105.0, 105.0), (5000.0, 9000.0)], [(-900.0, -900.0)]).mask.any()


def test_spots_off_their_lattice_leave_no_holes_between_them() -> None:
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.arange(1, 13)] * 2), axis=-1).reshape(-1, 2) * 100.0
    missing = (lattice == 600).all(axis=1)
    xy = (lattice + rng.uniform(-9, 9, lattice.shape))[~missing]
    mask = Tissue.of_spots(xy, np.empty((0, 2)), pitch_px=100.0, px_per_mask_px=5.0).mask
    inside = mask[30:230, 30:230]  # from 150 to 1150 px
    holes = np.argwhere(~inside) * 5.0 + 150
    assert len(holes) and np.abs(holes - 600).max() < 70  # that of the missing spot alone

"""Grayscale and fluorescence are told from H&E by their pixels; odd H&E is never refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import require_h_and_e

Picture = NDArray[np.uint8]
SHAPE = (120, 160)


def picture(ground: object, tissue: object, share: float = 0.3, noise: float = 2.0) -> Picture:
    """Tissue of two tones on a ground, with noise of its own in each channel."""
    rng = np.random.default_rng(0)
    image = np.empty((*SHAPE, 3))
    image[:] = ground
    height = round(SHAPE[0] * share**0.5)
    width = round(SHAPE[1] * share**0.5)
    image[:height, :width] = tissue
    nuclei = rng.random(SHAPE) < 0.2
    nuclei[height:], nuclei[:, width:] = False, False
    image[nuclei] = 0.8 * np.asarray(tissue, float)
    return np.clip(np.rint(image + rng.normal(0, noise, image.shape)), 0, 255).astype(np.uint8)


GLASS = (240, 238, 241)
H_AND_E: dict[str, Picture] = {
    "usual": picture(GLASS, (200, 120, 180)),
    "pale": picture(GLASS, (234, 220, 231)),
    "faded": picture((240, 240, 240), (238, 230, 235)),
    "over-stained": picture(GLASS, (75, 20, 80), share=0.6),
    "over-stained without glass": picture((75, 20, 80), (70, 18, 75)),
    "bluish": picture((215, 225, 245), (150, 150, 210)),
    "very brown": picture((225, 215, 195), (120, 80, 50)),
    "hematoxylin alone": picture(GLASS, (120, 110, 170)),
    "dim": picture((120, 118, 121), (90, 55, 80)),
    "dim without glass": picture((125, 100, 120), (110, 75, 105), share=0.9),
    "small biopsy": picture(GLASS, (200, 120, 180), share=0.005),
    "noisy": picture(GLASS, (200, 120, 180), noise=12),
    "tinted glass": picture((235, 228, 205), (190, 110, 140)),
}


@pytest.mark.parametrize("image", H_AND_E.values(), ids=H_AND_E)
def test_odd_h_and_e_passes(image: Picture) -> None:
    require_h_and_e(image)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("kind", ["usual", "pale", "bluish", "very brown", "hematoxylin alone"])
def test_black_padding_is_no_fluorescence(kind: str, share: float) -> None:
    image = H_AND_E[kind].copy()
    image[round(SHAPE[0] * (1 - share)) :] = 0
    require_h_and_e(image)


def gray(image: Picture) -> Picture:
    return np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize("kind", H_AND_E)
def test_the_same_without_colour_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(gray(H_AND_E[kind]))


def test_gray_with_noise_in_each_channel_is_refused() -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(picture((230, 230, 230), (150, 150, 150), noise=3))


FLUORESCENCE: dict[str, Picture] = {
    "DAPI in blue": picture((0, 0, 8), (10, 20, 230)),
    "red, green and blue": picture((8, 8, 8), (150, 30, 200), share=0.45),
    "glow in all channels": picture((10, 12, 14), (55, 60, 75), share=0.45),
    "green and red": picture((12, 10, 4), (170, 150, 10)),
    "bright ground": picture((20, 25, 40), (20, 60, 200)),
    "no signal": picture((3, 3, 3), (4, 9, 4)),
}


@pytest.mark.parametrize("image", FLUORESCENCE.values(), ids=FLUORESCENCE)
def test_a_black_ground_is_refused(image: Picture) -> None:
    with pytest.raises(InputError, match="fluorescence"):
        require_h_and_e(image)


def test_fluorescence_in_gray_is_refused() -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(gray(picture((6, 6, 6), (180, 180, 180))))


def test_an_inverted_section_is_refused() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((120, 160, 3), 244.0) + rng.normal(0, 2, (120, 160, 3))
    picture[30:90, 40:120] = rng.normal((214, 140, 190), 8, (60, 80, 3))
    picture[40:60, 60:80] = rng.normal((120, 70, 150), 8, (20, 20, 3))
    natural = picture.clip(0, 255).astype(np.uint8)
    require_h_and_e(natural)
    with pytest.raises(InputError, match="inverted|black over"):
        require_h_and_e(255 - natural)


def test_one_colour_is_refused() -> None:
    with pytest.raises(InputError, match="one colour"):
        require_h_and_e(np.full((*SHAPE, 3), 240, np.uint8))

"""Slides of one tissue in different stains look alike once normalised; glass and padding stay white."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.histology.macenko import COMMON, COMMON_MAXIMA, Macenko
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tissue import Tissue

PINK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
BLUE = np.array([[0.75, 0.60, 0.30], [0.25, 0.85, 0.45]])


def tissue_in(stains: np.ndarray, strength: float) -> np.ndarray:
    """(200, 200, 3): amounts of the two stains that vary independently, the same each time."""
    rng = np.random.default_rng(0)
    amounts = np.stack([rng.gamma(2, 0.5, 40_000), rng.gamma(2, 0.35, 40_000)], axis=1)
    mostly = rng.random(40_000)[:, None]
    amounts *= np.where(mostly < 0.3, (1, 0.02), np.where(mostly < 0.6, (0.02, 1), (1, 1)))
    unit = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    return np.clip(256 * np.exp(-strength * amounts @ unit) - 1, 0, 255).astype(np.uint8).reshape(200, 200, 3)


def test_one_tissue_in_two_stains_looks_alike_afterwards() -> None:
    pink, blue = tissue_in(PINK, 1.0), tissue_in(BLUE, 0.7)
    before = abs(pink.astype(float) - blue).mean()
    after = [Macenko.of_pixels(image.reshape(-1, 3))(image).astype(float) for image in (pink, blue)]
    assert before > 15
    assert abs(after[0] - after[1]).mean() < 0.3 * before


def test_each_stain_takes_its_common_colour() -> None:
    normalise = Macenko.of_pixels(tissue_in(PINK, 1.0).reshape(-1, 3))
    for stain, common in zip(PINK, COMMON, strict=True):
        pure = np.clip(256 * np.exp(-stain)[None, None] - 1, 0, 255).astype(np.uint8)
        density = -np.log((normalise(pure)[0, 0] + 1.0) / 256)
        cosine = density @ common / np.linalg.norm(density) / np.linalg.norm(common)
        assert cosine > 0.995


@pytest.mark.parametrize(("stains", "strength"), [(PINK, 1.0), (BLUE, 0.7)])
def test_the_99th_percentile_of_each_stain_takes_its_common_value(stains: np.ndarray, strength: float) -> None:
    image = tissue_in(stains, strength)
    density = -np.log((Macenko.of_pixels(image.reshape(-1, 3))(image).reshape(-1, 3) + 1.0) / 256)
    is_stained = (-np.log((image.reshape(-1, 3) + 1.0) / 256) >= 0.15).all(axis=1)
    concentrations = (density @ np.linalg.pinv(COMMON))[is_stained]
    np.testing.assert_allclose(np.percentile(concentrations, 99, axis=0), COMMON_MAXIMA, rtol=0.02)


def test_white_stays_white() -> None:
    normalise = Macenko.of_pixels(tissue_in(BLUE, 1.0).reshape(-1, 3))
    white = np.full((4, 4, 3), 255, np.uint8)
    np.testing.assert_array_equal(normalise(white), white)


def test_a_slide_is_fitted_on_its_tissue_the_same_every_time() -> None:
    stained = tissue_in(PINK, 1.0)
    image = np.full((400, 600, 3), 250, np.uint8)
    image[100:300, 300:500] = stained
    mask = np.zeros((40, 60), bool)
    mask[10:24, 30:44] = True
    slide, tissue = Slide(ArrayPixels(image, "f"), "s"), Tissue(mask, image[::10, ::10], 10.0)
    fitted = Macenko.of_slide(slide, tissue)
    assert fitted.fingerprint == Macenko.of_slide(slide, tissue).fingerprint
    np.testing.assert_allclose(fitted.map, Macenko.of_pixels(stained.reshape(-1, 3)).map, atol=0.1)
    assert fitted.fingerprint != Macenko.of_pixels(tissue_in(BLUE, 1.0).reshape(-1, 3)).fingerprint


@pytest.mark.parametrize("has_tissue", [True, False])
def test_glass_alone_cannot_be_fitted(has_tissue: bool) -> None:
    image = np.full((200, 200, 3), 250, np.uint8)
    tissue = Tissue(np.full((20, 20), has_tissue), image[::10, ::10], 10.0)
    with pytest.raises(InputError, match=r"tiles\.stain"):
        Macenko.of_slide(Slide(ArrayPixels(image, "f"), "s"), tissue)

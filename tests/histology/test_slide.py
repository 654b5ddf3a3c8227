"""Windows keep rows, columns and RGB, thumbnails do not depend on strips; what is no stained tissue is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology import slide
from spamcaf.histology.slide import GLASS, ArrayPixels, Slide, require_h_and_e

ROWS, COLUMNS = 30, 50
IMAGE = np.random.default_rng(0).integers(0, 255, (ROWS, COLUMNS, 3), np.uint8)
SLIDE = Slide(ArrayPixels(IMAGE, "f"), "slide")


@settings(max_examples=200, deadline=None)
@given(st.integers(-70, 70), st.integers(-50, 50), st.integers(1, 90), st.integers(1, 70))
def test_any_window_equals_the_same_of_a_padded_image(x0: int, y0: int, width: int, height: int) -> None:
    margin = 200
    padded = np.pad(IMAGE, ((margin, margin), (margin, margin), (0, 0)), constant_values=GLASS)
    rows, columns = slice(margin + y0, margin + y0 + height), slice(margin + x0, margin + x0 + width)
    outside = np.pad(np.zeros((ROWS, COLUMNS), bool), margin, constant_values=True)[rows, columns]
    window, n_padded = SLIDE.read(x0, y0, width, height)
    assert window.dtype == np.uint8
    np.testing.assert_array_equal(window, padded[rows, columns])
    assert n_padded == outside.sum()


@pytest.mark.parametrize(
    ("x0", "y0", "n_padded"),
    [(0, 0, 0), (-2, 0, 20), (42, 0, 20), (0, -3, 30), (0, 23, 30), (-2, -3, 44), (99, 99, 100)],
)
def test_padding_on_each_side(x0: int, y0: int, n_padded: int) -> None:
    assert SLIDE.read(x0, y0, 10, 10)[1] == n_padded


def test_padding_does_not_write_into_the_image() -> None:
    before = IMAGE.copy()
    SLIDE.read(-5, -5, 20, 20)
    np.testing.assert_array_equal(IMAGE, before)


def test_thumbnail_keeps_place_and_rgb() -> None:
    image = np.full((200, 400, 3), 255, np.uint8)
    image[:100, :200] = (200, 30, 10)
    image[100:, 200:] = (10, 30, 200)
    thumbnail = Slide(ArrayPixels(image, "f"), "s").thumbnail(10)
    assert thumbnail.shape == (20, 40, 3)
    assert (thumbnail[:10, :20] == (200, 30, 10)).all()
    assert (thumbnail[10:, 20:] == (10, 30, 200)).all()
    assert (thumbnail[:10, 20:] == 255).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(1, 60), st.integers(1, 60))
def test_thumbnail_does_not_depend_on_strips(scale: float, strip: int) -> None:
    whole, striped = SLIDE.thumbnail(scale, strip=10_000), SLIDE.thumbnail(scale, strip=strip)
    assert whole.shape == (max(round(ROWS / scale), 1), max(round(COLUMNS / scale), 1), 3)
    assert whole.shape == striped.shape
    assert striped.mean() == pytest.approx(whole.mean(), abs=6)


def test_thumbnail_of_whole_factor_is_the_mean_of_its_pixels() -> None:
    expected = IMAGE.reshape(6, 5, 10, 5, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(SLIDE.thumbnail(5, strip=7), expected, atol=1)


def test_a_thumbnail_of_a_wide_image_is_read_in_thin_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    heights = []

    class Watched(ArrayPixels):
        def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
            heights.append(height)
            return super().crop(x0, y0, width, height)

    monkeypatch.setattr(slide, "STRIP_PX", 10 * COLUMNS)
    thumbnail = Slide(Watched(IMAGE, "f"), "s").thumbnail(5)
    assert heights == [10, 10, 10]
    np.testing.assert_array_equal(thumbnail, SLIDE.thumbnail(5, strip=10))


def test_a_slide_states_nothing_by_itself() -> None:
    assert (SLIDE.mpp, SLIDE.reader, SLIDE.notes) == (None, "", ())


Image = NDArray[np.uint8]
SHAPE = (120, 160)


def painted(ground: object, tissue: object, share: float = 0.3, noise: float = 2.0) -> Image:
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


GLASS_COLOUR = (240, 238, 241)
H_AND_E: dict[str, Image] = {
    "usual": painted(GLASS_COLOUR, (200, 120, 180)),
    "pale": painted(GLASS_COLOUR, (234, 220, 231)),
    "faded": painted((240, 240, 240), (238, 230, 235)),
    "over-stained": painted(GLASS_COLOUR, (75, 20, 80), share=0.6),
    "over-stained without glass": painted((75, 20, 80), (70, 18, 75)),
    "bluish": painted((215, 225, 245), (150, 150, 210)),
    "very brown": painted((225, 215, 195), (120, 80, 50)),
    "hematoxylin alone": painted(GLASS_COLOUR, (120, 110, 170)),
    "dim": painted((120, 118, 121), (90, 55, 80)),
    "dim without glass": painted((125, 100, 120), (110, 75, 105), share=0.9),
    "small biopsy": painted(GLASS_COLOUR, (200, 120, 180), share=0.005),
    "noisy": painted(GLASS_COLOUR, (200, 120, 180), noise=12),
    "tinted glass": painted((235, 228, 205), (190, 110, 140)),
}


@pytest.mark.parametrize("image", H_AND_E.values(), ids=H_AND_E)
def test_odd_h_and_e_passes(image: Image) -> None:
    require_h_and_e(image)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
@pytest.mark.parametrize("kind", ["usual", "pale", "bluish", "very brown", "hematoxylin alone"])
def test_black_padding_is_no_fluorescence(kind: str, share: float) -> None:
    image = H_AND_E[kind].copy()
    image[round(SHAPE[0] * (1 - share)) :] = 0
    require_h_and_e(image)


def gray(image: Image) -> Image:
    return np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize("kind", H_AND_E)
def test_the_same_without_colour_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(gray(H_AND_E[kind]))


def test_gray_with_noise_in_each_channel_is_refused() -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(painted((230, 230, 230), (150, 150, 150), noise=3))


FLUORESCENCE: dict[str, Image] = {
    "DAPI in blue": painted((0, 0, 8), (10, 20, 230)),
    "red, green and blue": painted((8, 8, 8), (150, 30, 200), share=0.45),
    "glow in all channels": painted((10, 12, 14), (55, 60, 75), share=0.45),
    "green and red": painted((12, 10, 4), (170, 150, 10)),
    "bright ground": painted((20, 25, 40), (20, 60, 200)),
    "no signal": painted((3, 3, 3), (4, 9, 4)),
}


@pytest.mark.parametrize("image", FLUORESCENCE.values(), ids=FLUORESCENCE)
def test_a_black_ground_is_refused(image: Image) -> None:
    with pytest.raises(InputError, match="fluorescence"):
        require_h_and_e(image)


def test_fluorescence_in_gray_is_refused() -> None:
    with pytest.raises(InputError, match="without colour"):
        require_h_and_e(gray(painted((6, 6, 6), (180, 180, 180))))


def test_an_inverted_section_is_refused() -> None:
    rng = np.random.default_rng(0)
    image = np.full((120, 160, 3), 244.0) + rng.normal(0, 2, (120, 160, 3))
    image[30:90, 40:120] = rng.normal((214, 140, 190), 8, (60, 80, 3))
    image[40:60, 60:80] = rng.normal((120, 70, 150), 8, (20, 20, 3))
    natural = image.clip(0, 255).astype(np.uint8)
    require_h_and_e(natural)
    with pytest.raises(InputError, match="inverted|black over"):
        require_h_and_e(255 - natural)


def test_one_colour_is_refused() -> None:
    with pytest.raises(InputError, match="one colour"):
        require_h_and_e(np.full((*SHAPE, 3), 240, np.uint8))

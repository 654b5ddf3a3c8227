"""Windows keep rows, columns and RGB; what lies outside is white and counted; thumbnails do not depend on strips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spamcaf.histology import slide
from spamcaf.histology.slide import GLASS, ArrayPixels, Slide

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

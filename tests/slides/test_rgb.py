"""16 bits are rescaled by the depth that the camera used, the same for every window."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.slides import rgb
from spamcaf.slides.rgb import Alpha, Conversion, DecodedPixels, conversion_of


def deep(brightest: int, shape: tuple[int, int] = (90, 120)) -> NDArray[np.uint16]:
    samples = np.zeros((*shape, 3), np.uint16)
    samples[..., 0] = np.linspace(0, brightest, shape[1]).astype(np.uint16)
    samples[..., 1] = brightest // 3
    return samples


@pytest.mark.parametrize(
    ("brightest", "white"),
    [(200, 255), (255, 255), (256, 1023), (1023, 1023), (3000, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_white_is_the_smallest_depth_that_holds_the_brightest(brightest: int, white: int) -> None:
    samples = deep(brightest)
    conversion, notes = conversion_of(DecodedPixels(samples))
    rgb = conversion.to_rgb(samples)
    np.testing.assert_allclose(rgb, samples * (255 / white), atol=0.5)
    assert str(white) in notes[0]


def test_a_window_does_not_depend_on_its_place() -> None:
    samples = deep(40_000)
    conversion, _ = conversion_of(DecodedPixels(samples))
    np.testing.assert_array_equal(conversion.to_rgb(samples)[30:60, 10:50], conversion.to_rgb(samples[30:60, 10:50]))


def test_a_bright_corner_of_a_large_slide_is_seen() -> None:
    samples = np.full((3000, 2000, 3), 100, np.uint16)
    samples[2900:, 1900:] = 4000
    assert conversion_of(DecodedPixels(samples))[0].white == 4095


def test_blocks_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, conversion = deep(60_000), Conversion(white=65535)
    whole = conversion.to_rgb(samples)
    monkeypatch.setattr(rgb, "BLOCK_PX", 7 * 120)
    np.testing.assert_array_equal(conversion.to_rgb(samples), whole)


def test_8_bit_rgb_is_passed_on_without_a_copy() -> None:
    samples = np.zeros((4, 5, 3), np.uint8)
    assert Conversion().to_rgb(samples) is samples


def test_alpha_of_16_bits_may_be_deeper_than_the_colours() -> None:
    samples = np.zeros((80, 80, 4), np.uint16)
    samples[..., :3], samples[..., 3] = 1000, 65535
    samples[:40, :, 3] = 0
    conversion, _ = conversion_of(DecodedPixels(samples), Alpha.STRAIGHT)
    rgb = conversion.to_rgb(samples)
    assert (rgb[:40] == 255).all()
    assert (rgb[40:] == round(1000 * 255 / 1023)).all()

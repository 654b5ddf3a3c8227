"""Nine tiles of nine colours: a swapped channel, a swapped axis or a window one pixel off is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spamcaf.histology.slide import GLASS, ArrayPixels, Slide
from spamcaf.histology.tiles import CENTRE, WindowGeometry, cut_tiles, read_window, shrink_windows
from spamcaf.parameters import TileSettings

COLOURS = np.array([(20 * i + 5, 250 - 25 * i, (i * 70) % 250) for i in range(9)], np.uint8)
UM = TileSettings()


def nine(tile_px: int, left: int, top: int) -> Slide:
    """A white slide, wider than high, with nine coloured tiles, row by row, from (left, top)."""
    image = np.full((top + 3 * tile_px + 60, left + 3 * tile_px + 160, 3), GLASS, np.uint8)
    for i, colour in enumerate(COLOURS):
        y, x = top + i // 3 * tile_px, left + i % 3 * tile_px
        image[y : y + tile_px, x : x + tile_px] = colour
    return Slide(ArrayPixels(image, "f"), "nine")


def means(window: torch.Tensor) -> NDArray[np.float32]:
    """Mean colour of each tile, (9, 3)."""
    return cut_tiles(window[None])[0].mean(dim=(2, 3)).numpy()


def test_at_half_a_micrometre_pixels_are_copied() -> None:
    slide = nine(224, left=300, top=40)
    window, n_padded = read_window(slide, np.array([300 + 336.0, 40 + 336.0]), WindowGeometry.of(UM, 0.5))
    tiles = cut_tiles(window[None])[0]
    assert n_padded == 0
    assert window.dtype == torch.float32
    for tile, colour in zip(tiles.numpy(), COLOURS, strict=True):
        assert (tile == colour.astype(np.float32)[:, None, None]).all()


@pytest.mark.parametrize(("mpp", "tile_px"), [(0.25, 448), (0.7, 160), (1.0, 112)])
def test_a_tile_is_112_um_at_any_scale(mpp: float, tile_px: int) -> None:
    geometry = WindowGeometry.of(UM, mpp)
    assert geometry.window_px == 3 * tile_px
    window, _ = read_window(nine(tile_px, 90, 30), np.array([90 + 1.5 * tile_px, 30 + 1.5 * tile_px]), geometry)
    np.testing.assert_allclose(means(window), COLOURS, atol=2.5)


def test_one_window_off_the_centre_by_a_tile_shows_the_neighbour() -> None:
    slide = nine(224, left=300, top=40)
    window, _ = read_window(slide, np.array([300 + 336.0 + 224, 40 + 336.0]), WindowGeometry.of(UM, 0.5))
    np.testing.assert_array_equal(means(window)[[0, 3, 6]], COLOURS[[1, 4, 7]])
    window, _ = read_window(slide, np.array([300 + 336.0, 40 + 336.0 + 224]), WindowGeometry.of(UM, 0.5))
    np.testing.assert_array_equal(means(window)[[0, 1, 2]], COLOURS[[3, 4, 5]])


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.9])
def test_pixels_reproduce_the_released_window(mpp: float) -> None:
    assert WindowGeometry.of(TileSettings(unit="pixels"), mpp).window_px == 672


def test_finer_pixels_do_not_alias() -> None:
    stripes = np.zeros((1344, 1344, 3), np.uint8)
    stripes[:, ::2] = 255
    window, _ = read_window(
        Slide(ArrayPixels(stripes, "f"), "s"), np.array([672.0, 672.0]), WindowGeometry.of(UM, 0.25)
    )
    assert window[..., 10:-10].std() < 3
    assert window.mean().item() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    ("xy", "n_padded", "white"), [((0.0, 400.0), 336 * 672, [0, 3, 6]), ((400.0, 0.0), 336 * 672, [0, 1, 2])]
)
def test_padding_is_white_and_counted(xy: tuple[float, float], n_padded: int, white: list[int]) -> None:
    dark = Slide(ArrayPixels(np.full((800, 900, 3), 7, np.uint8), "f"), "dark")
    window, n = read_window(dark, np.array(xy), WindowGeometry.of(UM, 0.5))
    assert n == n_padded
    np.testing.assert_array_equal(means(window)[white], GLASS)
    np.testing.assert_array_equal(means(window)[8], 7)


def test_the_centre_tile_is_the_target() -> None:
    windows = torch.arange(2 * 3 * 672 * 672, dtype=torch.float32).reshape(2, 3, 672, 672)
    tiles = cut_tiles(windows)
    assert tiles.shape == (2, 9, 3, 224, 224)
    assert torch.equal(tiles[:, CENTRE], windows[..., 224:448, 224:448])
    assert torch.equal(tiles[:, 2], windows[..., :224, 448:])
    assert torch.equal(tiles[:, 6], windows[..., 448:, :224])


def test_a_window_shrinks_to_one_tile_without_moving() -> None:
    """Red left, blue lower right; a line one pixel wide is averaged, not dropped."""
    window = torch.zeros(1, 3, 672, 672)
    window[:, 0, :, :224] = 255
    window[:, 2, 448:, 448:] = 255
    window[:, 1, 300, :] = 240
    shrunk = shrink_windows(window)
    assert shrunk.shape == (1, 3, 224, 224)
    red, green, blue = shrunk[0]
    assert (red[:, :72] > 254).all() and (red[:, 78:] < 1).all()
    assert (blue[152:, 152:] > 254).all() and (blue[:146] < 1).all() and (blue[:, :146] < 1).all()
    np.testing.assert_allclose(green.sum(dim=0), 80, rtol=0.02)

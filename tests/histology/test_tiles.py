"""Nine tiles of nine colours where they belong; tiles are read once, in an order that suits files, little ahead."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from spamcaf.histology.slide import GLASS, ArrayPixels, Slide
from spamcaf.histology.tiles import (
    CENTRE,
    WindowGeometry,
    distinct,
    prefetch_tiles,
    read_tile,
    read_tiles,
    reading_order,
)
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


def tiles_at(slide: Slide, geometry: WindowGeometry, x: float, y: float) -> tuple[NDArray[np.uint8], int]:
    """The nine tiles around a place, and the padded pixels of all."""
    read = [read_tile(slide, *place) for place in geometry.tiles(np.array([[x, y]]))[0].tolist()]
    return np.stack([tile for tile, _ in read]), sum(n for _, n in read)


def means(tiles: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour of each tile, (9, 3)."""
    return tiles.mean(axis=(1, 2))


def test_at_half_a_micrometre_pixels_are_copied() -> None:
    tiles, n_padded = tiles_at(nine(224, left=300, top=40), WindowGeometry.of(UM, 0.5), 300 + 336.0, 40 + 336.0)
    assert n_padded == 0
    assert tiles.dtype == np.uint8
    assert tiles.shape == (9, 224, 224, 3)
    np.testing.assert_array_equal(tiles, np.broadcast_to(COLOURS[:, None, None], tiles.shape))


@pytest.mark.parametrize(("mpp", "tile_px"), [(0.25, 448), (0.7, 160), (1.0, 112)])
def test_a_tile_is_112_um_at_any_scale_and_shows_nothing_of_its_neighbours(mpp: float, tile_px: int) -> None:
    geometry = WindowGeometry.of(UM, mpp)
    assert (geometry.tile_px, geometry.window_px) == (tile_px, 3 * tile_px)
    tiles, _ = tiles_at(nine(tile_px, 90, 30), geometry, 90 + 1.5 * tile_px, 30 + 1.5 * tile_px)
    np.testing.assert_array_equal(tiles, np.broadcast_to(COLOURS[:, None, None], tiles.shape))


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-1, 0)])
def test_one_pixel_off_is_noticed(dx: int, dy: int) -> None:
    tiles, _ = tiles_at(nine(224, 300, 40), WindowGeometry.of(UM, 0.5), 300 + 336.0 + dx, 40 + 336.0 + dy)
    assert (tiles[CENTRE] != COLOURS[CENTRE]).any(axis=-1).sum() == 224


def test_one_window_off_the_centre_by_a_tile_shows_the_neighbour() -> None:
    slide, geometry = nine(224, left=300, top=40), WindowGeometry.of(UM, 0.5)
    right, _ = tiles_at(slide, geometry, 300 + 336.0 + 224, 40 + 336.0)
    np.testing.assert_array_equal(means(right)[[0, 3, 6]], COLOURS[[1, 4, 7]])
    below, _ = tiles_at(slide, geometry, 300 + 336.0, 40 + 336.0 + 224)
    np.testing.assert_array_equal(means(below)[[0, 1, 2]], COLOURS[[3, 4, 5]])


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.9])
def test_pixels_reproduce_the_released_window(mpp: float) -> None:
    assert WindowGeometry.of(TileSettings(unit="pixels"), mpp).window_px == 672


def test_finer_pixels_do_not_alias() -> None:
    stripes = np.zeros((1344, 1344, 3), np.uint8)
    stripes[:, ::2] = 255
    tile, _ = read_tile(Slide(ArrayPixels(stripes, "f"), "s"), 100, 100, 448)
    assert tile[:, 10:-10].std() < 3
    assert tile.mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    ("xy", "n_padded", "white"), [((0.0, 400.0), 336 * 672, [0, 3, 6]), ((400.0, 0.0), 336 * 672, [0, 1, 2])]
)
def test_padding_is_white_and_counted(xy: tuple[float, float], n_padded: int, white: list[int]) -> None:
    dark = Slide(ArrayPixels(np.full((800, 900, 3), 7, np.uint8), "f"), "dark")
    tiles, n = tiles_at(dark, WindowGeometry.of(UM, 0.5), *xy)
    assert n == n_padded
    np.testing.assert_array_equal(means(tiles)[white], GLASS)
    np.testing.assert_array_equal(means(tiles)[8], 7)


@pytest.mark.parametrize("mpp", [0.5, 0.37])
def test_tiles_make_up_the_window_and_sites_one_tile_apart_share_them(mpp: float) -> None:
    geometry = WindowGeometry.of(UM, mpp)
    first, second = geometry.tiles(np.array([[700.5, 800.0], [700.5 + geometry.tile_px, 800.0]]))
    np.testing.assert_array_equal(first[[1, 2, 4, 5, 7, 8]], second[[0, 1, 3, 4, 6, 7]])
    ((window,),) = geometry.windows(np.array([[700.5, 800.0]]))
    np.testing.assert_array_equal(first[0, :2], window[:2])
    assert (first[8, :2] + geometry.tile_px == window[:2] + window[2]).all()
    assert abs(window[:2] + geometry.window_px / 2 - (700.5, 800.0)).max() <= 0.5


@pytest.mark.parametrize(("tile_px", "quarter_px"), [(224, 56), (28, 7), (29, 7), (30, 8), (31, 8), (1, 0)])
def test_a_quarter_of_a_tile_is_the_nearest_pixel_to_all_four_sides(tile_px: int, quarter_px: int) -> None:
    sites = np.array([[400.0, 300.5], [9.0, 7.0]])
    geometry = WindowGeometry(tile_px, "", views=12)
    shifts = geometry.target_views(sites)[:, 7:] - np.pad(geometry.tiles(sites)[:, [CENTRE]], [(0, 0), (0, 0), (0, 1)])
    expected = np.array([(-1, 0, 0, 0), (1, 0, 0, 0), (0, -1, 0, 0), (0, 1, 0, 0)]) * quarter_px
    np.testing.assert_array_equal(shifts, [expected, expected])


def test_turns_of_one_square_are_read_once() -> None:
    read: list[int] = []

    class Counting(ArrayPixels):
        def crop(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
            read.append(x0)
            return super().crop(x0, y0, width, height)

    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    boxes = [(5, 9, 224, turn) for turn in range(8)] + [(6, 9, 224, 0)]
    found = read_tiles(Slide(Counting(image, "f"), "s"), np.array(boxes), lambda tile: 255 - tile).tiles
    assert read == [5, 6]
    np.testing.assert_array_equal(found[0], 255 - image[9:233, 5:229])
    np.testing.assert_array_equal(found[4], found[0][:, ::-1])
    np.testing.assert_array_equal(found[3], np.rot90(found[0], 3))
    assert len({tile.tobytes() for tile in found}) == 9


def test_a_window_shrinks_to_one_tile_without_moving() -> None:
    """Red left, blue lower right; a line one pixel wide is averaged, not dropped."""
    image = np.zeros((672, 672, 3), np.uint8)
    image[:, :224, 0] = 255
    image[448:, 448:, 2] = 255
    image[300, :, 1] = 240
    shrunk, _ = read_tile(Slide(ArrayPixels(image, "f"), "s"), 0, 0, 672)
    red, green, blue = np.moveaxis(shrunk.astype(float), -1, 0)
    assert (red[:, :72] > 254).all() and (red[:, 78:] < 1).all()
    assert (blue[152:, 152:] > 254).all() and (blue[:146] < 1).all() and (blue[:, :146] < 1).all()
    np.testing.assert_allclose(green.sum(axis=0), 80, rtol=0.03)


@given(arrays(np.int64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(0, 3)))
def test_distinct_places_give_all_places_back(boxes: np.ndarray) -> None:
    once, which = distinct(boxes)
    np.testing.assert_array_equal(once[which], boxes)
    assert len({tuple(box) for box in once.tolist()}) == len(once)
    assert (np.diff([which.tolist().index(i) for i in range(len(once))]) > 0).all()


def test_sites_are_read_in_bands_from_left_to_right() -> None:
    xy = np.array([[500.0, 90], [10, 120], [20, 10], [300, 20], [10, 110]])
    assert reading_order(xy, 100).tolist() == [2, 3, 0, 4, 1]


def test_reading_order_decodes_little_twice() -> None:
    """Windows of 3 tiles over chunks of 100 px with room for three rows of chunks."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(150, 1850, (400, 2))

    def decoded(order: np.ndarray) -> int:
        kept: list[tuple[int, int]] = []
        n = 0
        for x, y in xy[order]:
            for row in range(int(y - 150) // 100, int(y + 150) // 100 + 1):
                for column in range(int(x - 150) // 100, int(x + 150) // 100 + 1):
                    if (row, column) in kept:
                        kept.remove((row, column))
                    else:
                        n += 1
                    kept = [*kept, (row, column)][-80:]
        return n

    assert decoded(reading_order(xy, 300)) < 2.5 * 400
    assert decoded(np.arange(400)) > 3000


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_come_in_order_whatever_reads_them(slide: Slide, threads: int) -> None:
    batches = [np.array([[x, y, 40] for y in (-10, 100)]) for x in range(0, 500, 50)]
    ready = list(prefetch_tiles(slide, batches, None, threads))
    assert len(ready) == len(batches)
    for boxes, prepared in zip(batches, ready, strict=True):
        (expected,) = prefetch_tiles(slide, [boxes], None, 0)
        np.testing.assert_array_equal(prepared.tiles, expected.tiles)
        np.testing.assert_array_equal(prepared.n_padded, [400, 0])


def test_what_waits_is_bounded() -> None:
    read = []

    class Counting(ArrayPixels):
        def crop(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
            read.append(x0)
            return super().crop(x0, y0, width, height)

    slide = Slide(Counting(np.zeros((300, 1000, 3), np.uint8), "f"), "s")
    batches = ([np.array([[x, 0, 224]])][0] for x in range(500))
    ahead = prefetch_tiles(slide, batches, None, 2)
    next(ahead)
    time.sleep(0.05)
    assert 1 <= len(read) <= 6
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tiles")]


def test_an_error_of_a_reader_is_raised(slide: Slide) -> None:
    def broken(tile: np.ndarray) -> np.ndarray:
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(prefetch_tiles(slide, [np.array([[0, 0, 40]])], broken, 1))

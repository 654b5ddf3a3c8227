"""Colours of tiles: their mean and deviation by channel, tile by tile."""

from __future__ import annotations

import numpy as np

from spamcaf.histology.colours import tile_colours
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import WindowGeometry


def test_each_tile_has_mean_and_deviation_of_each_channel() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    geometry = WindowGeometry(4, "4 px")
    found = tile_colours(Slide(ArrayPixels(image, "x"), "x"), np.array([[20.0, 10.0], [30.0, 25.0]]), geometry)
    assert found.shape == (2, 54)
    boxes = geometry.tiles(np.array([[20.0, 10.0], [30.0, 25.0]]))
    for site, tile in ((0, 0), (0, 5), (1, 7)):
        x, y, width = boxes[site, tile]
        pixels = image[y : y + width, x : x + width].reshape(-1, 3)
        np.testing.assert_allclose(found[site, 6 * tile : 6 * tile + 3], pixels.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found[site, 6 * tile + 3 : 6 * tile + 6], pixels.std(axis=0), rtol=1e-5)


def test_outside_the_image_is_white() -> None:
    slide = Slide(ArrayPixels(np.zeros((30, 30, 3), np.uint8), "x"), "x")
    found = tile_colours(slide, np.array([[0.0, 0.0]]), WindowGeometry(4, "4 px")).reshape(9, 6)
    assert (found[0, :3] == 255).all() and (found[0, 3:] == 0).all()
    assert (found[8] == 0).all()

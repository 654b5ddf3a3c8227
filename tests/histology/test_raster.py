"""Pooling by area against a direct sum over finely repeated features; windows touched against a direct look."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamcaf.histology.dense import Band, FeatureGrid

FINE = 20


def band(rows: int, columns: int, row0: int = 0, column0: int = 0) -> tuple[np.ndarray, Band]:
    features = np.random.default_rng(0).normal(size=(rows, columns, 3)).astype(np.float32)
    padded = np.concatenate([np.zeros((rows, 1, 3), np.float32), features], axis=1)
    return features, Band(padded, row0, column0)


@given(x=st.integers(-60, 300), y=st.integers(-60, 300), row0=st.integers(-3, 3), column0=st.integers(-3, 3))
def test_a_box_gets_every_feature_by_its_area_inside(x: int, y: int, row0: int, column0: int) -> None:
    features, pooled = band(12, 15, row0, column0)
    x_edges, y_edges = (np.array([start, start + 30, start + 100, start + 130]) / FINE for start in (x, y))
    found = pooled.pool(x_edges, y_edges)
    fine = features.astype(np.float64).repeat(FINE, axis=0).repeat(FINE, axis=1) / FINE**2
    for i in range(3):
        for j in range(3):
            rows, columns = (
                slice(*(np.clip(np.round(edges[k : k + 2] * FINE) - FINE * zero, 0, None).astype(int)))
                for edges, k, zero in ((y_edges, i, row0), (x_edges, j, column0))
            )
            np.testing.assert_allclose(found[i, j], fine[rows, columns].sum(axis=(0, 1)), atol=1e-4)


def test_a_box_on_the_features_borders_is_their_sum() -> None:
    features, pooled = band(8, 8)
    found = pooled.pool(np.array([2.0, 4.0]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(found[0, 0], features[1:3, 2:4].sum(axis=(0, 1)), atol=1e-5)


CORNERS = [(0, 0), (224, -224), (1, 0), (223, 225), (-1, -1), (-225, 5), (112, 111), (-113, 336)]


@pytest.mark.parametrize("corner", CORNERS)
def test_every_tile_over_a_window_is_named_once(corner: tuple[int, int]) -> None:
    x, y = corner
    pixels = np.stack(np.meshgrid(np.arange(x, x + 672), np.arange(y, y + 672)), axis=-1).reshape(-1, 2)
    expected = np.unique(pixels[:, ::-1] // 224, axis=0)
    np.testing.assert_array_equal(FeatureGrid(224, 16).tiles(np.array([corner, corner])), expected)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("side", [7, 14, 16])
def test_overlapping_tiles_are_those_over_any_strip_that_is_touched(corner: tuple[int, int], side: int) -> None:
    feature_grid = FeatureGrid(224, side, overlap=2)
    begins = {index: feature_grid.at(index) for index in range(-10, 20)}
    expected = []
    for pixel in corner:
        low, high = pixel * side / 224, (pixel + 672) * side / 224
        strips = [i for i in range(-9, 19) if begins[i] < high and begins[i + 1] > low]
        expected.append(range(strips[0] - 1, strips[-1] + 1))
    found = feature_grid.tiles(np.array([corner]))
    assert found.tolist() == [[row, column] for row in expected[1] for column in expected[0]]


@pytest.mark.parametrize(("tile_px", "side"), [(187, 14), (224, 16), (161, 7)])
def test_overlapping_tiles_lie_on_the_same_features_to_half_a_pixel(tile_px: int, side: int) -> None:
    feature_grid = FeatureGrid(tile_px, side, overlap=2)
    for index in range(-5, 6):
        assert abs(feature_grid.at(index) * tile_px / side - feature_grid.at_px(index)) <= 0.5
        assert feature_grid.at(index + 2) - feature_grid.at(index) == side


def test_sites_apart_leave_the_tiles_between_them_out() -> None:
    tiles = FeatureGrid(224, 16).tiles(np.array([(0, 0), (2240, 2240)]))
    assert tiles.tolist() == [[r + z, c + z] for z in (0, 10) for r in range(3) for c in range(3)]


def test_edges_are_tile_borders_in_features() -> None:
    np.testing.assert_allclose(FeatureGrid(187, 14).edges(374), [28, 42, 56, 70])

"""The section check puts each spot where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.reporting.figures import plot_overlay

PICTURE = np.full((60, 100, 3), 230, np.uint8)


def test_spots_are_scaled_to_the_thumbnail_with_y_down() -> None:
    axes = plot_overlay(PICTURE, np.array([[100.0, 200.0], [900.0, 500.0]]), 0.1).axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[10, 20], [90, 50]])
    assert axes.get_ylim() == (60, 0)
    assert axes.get_xlim() == (0, 100)
    assert axes.get_title() == "2 spots, 0 outside the picture"


def test_spots_outside_are_counted_and_still_shown() -> None:
    axes = plot_overlay(PICTURE, np.array([[-100.0, 200.0], [1100.0, 500.0], [500.0, 300.0]]), 0.1).axes[0]
    assert axes.get_title() == "3 spots, 2 outside the picture"
    assert axes.get_xlim() == (-10, 110)


def test_outline_of_a_coarser_mask_lies_on_the_tissue() -> None:
    mask = np.zeros((6, 10), dtype=bool)
    mask[:, 5:] = True  # right half
    axes = plot_overlay(PICTURE, np.array([[500.0, 300.0]]), 0.1, mask).axes[0]
    outline = np.concatenate([path.vertices for path in axes.collections[1].get_paths()])
    np.testing.assert_allclose(outline[:, 0], 50.0)


@pytest.mark.parametrize("value", [True, False])
def test_a_mask_without_an_edge_draws_none(value: bool) -> None:
    axes = plot_overlay(PICTURE, np.array([[500.0, 300.0]]), 0.1, np.full((6, 10), value)).axes[0]
    assert len(axes.collections) == 1

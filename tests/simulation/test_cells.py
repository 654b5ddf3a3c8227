"""Random numbers and scattered points depend on their cell alone."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from spamcaf.simulation.cells import Scatter


def test_hashed_numbers_are_uniform_and_independent_of_their_neighbours() -> None:
    column, row = np.meshgrid(np.arange(-60, 60), np.arange(-60, 60))
    draws = Scatter(5, 1.0, 0.0).uniform(column, row, 2)
    assert np.abs(np.histogram(draws, 10, (0, 1))[0] / draws.size - 0.1).max() < 0.01
    other = [draws[:, 1:].ravel(), draws.T[:, 1:].ravel(), Scatter(5, 1.0, 0.0).uniform(column, row, 3)[:, 1:].ravel()]
    assert all(abs(np.corrcoef(draws[:, :-1].ravel(), o)[0, 1]) < 0.05 for o in (other[0], other[2]))
    assert abs(np.corrcoef(draws[:-1].T.ravel(), other[1])[0, 1]) < 0.05


def test_nearest_is_what_a_tree_finds() -> None:
    scatter = Scatter(11, 50.0, 0.2)
    column, row = (index.ravel() for index in np.meshgrid(np.arange(-3, 13), np.arange(-3, 13)))
    tree = cKDTree(np.stack(scatter.points(column, row), axis=1))
    x, y = np.random.default_rng(0).uniform(0, 450, (2, 500))
    distance, index = tree.query(np.stack([x, y], axis=1), k=2)
    near = scatter.nearest(x, y)
    np.testing.assert_allclose(near.first, distance[:, 0], atol=1e-3)
    np.testing.assert_array_equal(near.column, column[index[:, 0]])
    np.testing.assert_array_equal(near.row, row[index[:, 0]])
    np.testing.assert_allclose(np.hypot(near.dx, near.dy), near.first, atol=1e-3)
    assert np.mean(np.abs(near.second - distance[:, 1]) < 1e-3) > 0.98  # the second may lie one cell further

"""Random fields have zero mean and unit variance, on points and on grids."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.simulation.tissue_map import FourierFields


@pytest.fixture
def fields() -> FourierFields:
    return FourierFields.draw(np.random.default_rng(3), 2, 100, 400)


def test_an_open_grid_gives_the_values_of_its_points(fields: FourierFields) -> None:
    x, y = np.linspace(0, 900, 7), np.linspace(50, 1200, 5)
    grid = fields(x[None], y[:, None])
    points = fields(*(axis.ravel() for axis in np.meshgrid(x, y)))
    assert grid.shape == (2, 5, 7)
    np.testing.assert_allclose(grid.reshape(2, -1), points, atol=1e-4)


def test_fields_have_zero_mean_and_unit_variance(fields: FourierFields) -> None:
    x, y = np.random.default_rng(0).uniform(0, 50_000, (2, 4000))
    values = fields(x, y)
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=0.1)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=0.1)

"""Moran's I against its definition and against patterns with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.scoring.metrics import moran_ratio, morans_i


def _square(side: int) -> np.ndarray:
    return 100.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)


def _by_definition(values: np.ndarray, xy_um: np.ndarray, n_neighbours: int) -> float:
    distance = np.linalg.norm(xy_um[:, None] - xy_um[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    weight = np.zeros_like(distance)
    for i, row in enumerate(distance):
        weight[i, np.argsort(row)[:n_neighbours]] = 1
    z = values - values.mean()
    return float(len(z) / weight.sum() * (z @ weight @ z) / (z @ z))


def test_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    xy_um, values = rng.uniform(size=(60, 2)) * 1000, rng.normal(size=(60, 5))  # no ties among neighbours
    found = morans_i(values, xy_um, 6)
    np.testing.assert_allclose(found, [_by_definition(values[:, j], xy_um, 6) for j in range(5)])


def test_known_patterns() -> None:
    xy_um = _square(20)
    column, row = (xy_um / 100).astype(int).T
    patterns = np.stack([column, (column + row) % 2, np.full(400, 3.0)], axis=1).astype(np.float32)
    gradient, chessboard, constant = morans_i(patterns, xy_um, 4)
    assert gradient > 0.95
    assert chessboard < -0.85
    assert np.isnan(constant)


def test_sites_at_one_place_are_each_others_neighbours() -> None:
    xy_um = np.repeat(_square(5), 2, axis=0)
    values = np.repeat(np.random.default_rng(0).normal(size=(25, 1)), 2, axis=0)
    assert morans_i(values, xy_um, 1)[0] == pytest.approx(1.0)


def test_ratio_tells_a_smooth_prediction_from_a_noisy_truth() -> None:
    rng = np.random.default_rng(0)
    xy_um = _square(20)
    smooth = np.sin(xy_um[:, :1] / 400) * np.ones((1, 8))
    noisy = smooth + rng.normal(size=smooth.shape)
    assert moran_ratio(noisy, smooth, xy_um, 4) > 1.5
    assert moran_ratio(noisy, noisy, xy_um, 4) == pytest.approx(1.0)
    assert moran_ratio(noisy, np.zeros_like(noisy), xy_um, 4) is None


def test_too_few_sites() -> None:
    with pytest.raises(ValueError, match="more than 6 sites, found 4"):
        morans_i(np.zeros((4, 1)), _square(2), 6)

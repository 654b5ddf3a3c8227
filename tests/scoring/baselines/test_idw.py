"""Inverse-distance weighting against hand-made arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.scoring import baselines
from spamcaf.sections.sites import Measured, Sites


def _sites(xy_um: list[tuple[float, float]]) -> Sites:
    n = len(xy_um)
    return Sites(np.asarray(xy_um, dtype=float), np.zeros((n, 1), np.float32), np.zeros((n, 9, 1), np.float32))


def test_weights_fall_with_the_square_of_the_distance() -> None:
    measured = Measured(_sites([(0, 0), (300, 0)]), np.array([[1.0], [6.0]], np.float32), np.ones(2))
    found = baselines.idw(measured, _sites([(100, 0)]), 100.0, 0)
    assert found[0, 0] == pytest.approx((1.0 * 1 + 6.0 / 4) / (1 + 1 / 4))


def test_a_site_on_a_spot_takes_its_value() -> None:
    measured = Measured(_sites([(0, 0), (100, 0), (200, 0)]), np.array([[1.0], [6.0], [3.0]], np.float32), np.ones(3))
    assert baselines.idw(measured, _sites([(100, 0)]), 100.0, 0)[0, 0] == pytest.approx(6.0, abs=1e-4)


def test_only_the_eight_nearest_count() -> None:
    ring = [(100 * np.cos(a), 100 * np.sin(a)) for a in np.arange(8) * np.pi / 4]
    values = np.r_[np.ones(8), 1000.0].astype(np.float32)[:, None]
    measured = Measured(_sites([*ring, (150, 0)]), values, np.ones(9))
    assert baselines.idw(measured, _sites([(0, 0)]), 100.0, 0)[0, 0] == pytest.approx(1.0)

"""Coverage of intervals whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.scoring.metrics import interval_coverage


@pytest.mark.parametrize(("stated", "expected"), [(1.0, 0.9), (0.5, 0.589), (2.0, 0.999)])
def test_normal_errors(stated: float, expected: float) -> None:
    truth = np.random.default_rng(0).normal(size=(500, 100))
    flat = np.zeros_like(truth)
    assert interval_coverage(truth, flat, np.full_like(truth, stated)) == pytest.approx(expected, abs=0.01)

"""Kriging finds structure of the right length and repeats itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spamcaf.scoring import baselines
from spamcaf.sections.sites import Measured

PITCH_UM = 200.0


def test_is_deterministic(make_case: Callable) -> None:
    case = make_case(place=1.0, n_genes=100)
    first, second = (baselines.kriging(case.measured, case.hidden, PITCH_UM, 1) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_does_not_depend_on_origin_or_unit(make_case: Callable) -> None:
    case = make_case(place=1.0)
    sites = type(case.hidden)
    far = Measured(
        sites(case.measured.sites.xy_um * 2 + 1e5, case.measured.sites.target, case.measured.sites.neighbours),
        case.measured.expression,
        case.measured.depth,
    )
    moved = sites(case.hidden.xy_um * 2 + 1e5, case.hidden.target, case.hidden.neighbours)
    here = baselines.kriging(case.measured, case.hidden, PITCH_UM, 1)
    np.testing.assert_allclose(baselines.kriging(far, moved, 2 * PITCH_UM, 1), here, atol=1e-3)


def test_shrinks_noise_that_interpolation_repeats(make_case: Callable) -> None:
    case = make_case(place=0.0)
    prediction = baselines.kriging(case.measured, case.hidden, PITCH_UM, 0)
    assert prediction.var(axis=0).mean() < 0.05 * case.measured.expression.var(axis=0).mean()


def test_sketch_keeps_the_spots_covariance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 500))
    sketches = np.mean([_gram(baselines._sketch(values, np.random.default_rng(seed))) for seed in range(60)], axis=0)
    np.testing.assert_allclose(sketches, _gram(values), atol=0.1 * np.abs(_gram(values)).max())


def _gram(values: np.ndarray) -> np.ndarray:
    return values @ values.T / values.shape[1]

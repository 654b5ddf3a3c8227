"""Ridge survives what backbones really put out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spamcaf.scoring import baselines
from spamcaf.sections.sites import Measured, Sites

PITCH_UM = 200.0


def _with_channels(sites: Sites, channels: np.ndarray) -> Sites:
    neighbours = np.concatenate([sites.neighbours, channels.astype(np.float32)], axis=2)
    return Sites(sites.xy_um, neighbours[:, 4], neighbours)


def test_nearly_dead_channels_do_not_destroy_it(make_case: Callable) -> None:
    case = make_case(picture=1.0, n_train=60)
    rng = np.random.default_rng(0)

    def add_dead(sites: Sites, outlier: float) -> Sites:
        dead = 1e-6 * rng.normal(size=(len(sites), 9, 400))
        dead[0] += outlier  # a channel that is silent in training and speaks once afterwards
        return _with_channels(sites, dead)

    measured = Measured(add_dead(case.measured.sites, 0.0), case.measured.expression, case.measured.depth)
    clean = np.mean((baselines.ridge(case.measured, case.hidden, PITCH_UM, 0) - case.truth) ** 2)
    dirty = np.mean((baselines.ridge(measured, add_dead(case.hidden, 1e-2), PITCH_UM, 0) - case.truth) ** 2)
    assert dirty < 1.05 * clean


def test_scale_of_the_features_does_not_matter(make_case: Callable) -> None:
    case = make_case(picture=1.0, n_train=60)

    def scaled(sites: Sites) -> Sites:
        return Sites(sites.xy_um, 1000 * sites.target + 5, 1000 * sites.neighbours + 5)

    large = Measured(scaled(case.measured.sites), case.measured.expression, case.measured.depth)
    expected = baselines.ridge(case.measured, case.hidden, PITCH_UM, 0)
    np.testing.assert_allclose(baselines.ridge(large, scaled(case.hidden), PITCH_UM, 0), expected, atol=1e-2)


def test_features_without_variation_give_the_mean(make_case: Callable) -> None:
    case = make_case(picture=1.0, n_train=60)
    blank = Sites(case.measured.sites.xy_um, np.ones((60, 4), np.float32), np.ones((60, 9, 4), np.float32))
    n = len(case.hidden)
    hidden = Sites(case.hidden.xy_um, np.ones((n, 4), np.float32), np.ones((n, 9, 4), np.float32))
    found = baselines.ridge(Measured(blank, case.measured.expression, case.measured.depth), hidden, PITCH_UM, 0)
    np.testing.assert_allclose(found, np.tile(case.measured.expression.mean(axis=0), (n, 1)), atol=1e-5)

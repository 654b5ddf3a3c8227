"""Many spots: the approximation agrees with the exact process, and sections stay apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.model.data import PooledSections, ReferenceSpots, TrainingSection
from spamcaf.model.fit import Fitted, fit_spamcaf
from spamcaf.model.gaussian_process import Hyperparameters, Kernels, condition, out_of_fold, space_scale
from spamcaf.model.vecchia import (
    _SpaceCovariance,
    condition_vecchia,
    conditioning_sets,
    out_of_fold_vecchia,
    whitenings,
)
from spamcaf.parameters import ComputeSettings, FitSettings
from spamcaf.peers.models import predict
from spamcaf.sections.sites import Measured

PITCH_UM = 100.0
HYPER = Hyperparameters(np.array([[0.5, 0.3, 0.4, 0.3, 0.2]]), np.array([0.5]), np.zeros(1, int), 1500.0)


def drawn(pooled: PooledSections, seed: int) -> np.ndarray:
    """Scores (spot, 1) of the process itself."""
    gram = Kernels.of_spots(pooled.image_features, pooled.sites.xy_um, pooled.section, PITCH_UM).gram()
    covariance = HYPER.covariance(gram, 0) + np.diag(HYPER.noise_of(pooled.depth, 0))
    rng = np.random.default_rng(seed)
    return rng.multivariate_normal(np.zeros(len(pooled)), covariance, method="eigh")[:, None]


def known_of(pooled: PooledSections, scores: np.ndarray) -> ReferenceSpots:
    return ReferenceSpots(pooled.image_features, scores, pooled.depth, pooled.section, pooled.sites.xy_um)


def test_image_features_that_the_pca_left_out_add_variance(pool_of_three: PooledSections) -> None:
    pooled, scores = pool_of_three, drawn(pool_of_three, 2)
    target_section = pooled.section == 0
    seen, xy_um = pooled.image_features.at(target_section), pooled.sites.xy_um[target_section]
    strange = replace(seen, residual_norm2=seen.residual_norm2 + np.array([3.0, 5.0], np.float32))
    near = condition_vecchia(known_of(pooled, scores), PITCH_UM, HYPER)
    kernels = Kernels.of_spots(pooled.image_features, pooled.sites.xy_um, pooled.section, PITCH_UM)
    exact = condition(kernels, HYPER, scores, pooled.depth)
    added = [process.at(strange, xy_um)[1] - process.at(seen, xy_um)[1] for process in (exact, near)]
    assert added[0].min() > 0.01
    np.testing.assert_allclose(added[1], added[0], rtol=1e-3)


@pytest.mark.parametrize("with_space", [True, False])
def test_it_predicts_what_the_exact_process_predicts(pool_of_three: PooledSections, with_space: bool) -> None:
    pooled, scores = pool_of_three, drawn(pool_of_three, 0)
    hyper = HYPER if with_space else replace(HYPER, weights=HYPER.weights[:, :2])
    xy_um = pooled.sites.xy_um if with_space else None
    gram = Kernels.of_spots(pooled.image_features, xy_um, pooled.section, PITCH_UM).gram()
    mean, variance = out_of_fold(hyper, gram, scores, pooled.depth, pooled.folds)
    near, near_variance = out_of_fold_vecchia(
        known_of(pooled, scores), PITCH_UM, hyper, pooled.folds, use_positions=with_space
    )
    assert np.corrcoef(mean[:, 0], near[:, 0])[0, 1] > 0.99
    assert near_variance.mean() == pytest.approx(variance.mean(), rel=0.1)
    exact_error, near_error = (np.square(m - scores).mean() for m in (mean, near))
    assert near_error < 1.02 * exact_error


def test_a_section_is_not_seen_from_another(pool_of_three: PooledSections) -> None:
    pooled, scores = pool_of_three, drawn(pool_of_three, 1)
    shuffled = scores.copy()
    shuffled[pooled.section == 2] = 0
    only_space = Hyperparameters(
        HYPER.weights * [0, 0, 1, 1, 1], HYPER.noise, HYPER.covariance_of, HYPER.reference_depth
    )
    target_section = pooled.section == 0
    found = [
        condition_vecchia(known_of(pooled, y), PITCH_UM, only_space).at(
            pooled.image_features.at(target_section), pooled.sites.xy_um[target_section] + 30.0
        )[0]
        for y in (scores, shuffled)
    ]
    np.testing.assert_allclose(found[0], found[1])
    assert np.ptp(found[0]) > 0.1


def test_a_whole_fit_may_take_it(
    fitted: Fitted,
    section: Measured,
    visible: Measured,
    folds: np.ndarray,
    is_hidden: np.ndarray,
    cpu: ComputeSettings,
) -> None:
    settings = FitSettings(**fitted.model.fit.model_dump() | {"max_exact_spots": 1})
    model = fit_spamcaf(
        TrainingSection(visible, folds), [], PITCH_UM, settings, fitted.model.network, cpu, seed=5
    ).model
    sites = section.at(is_hidden).sites
    for context in (visible, None):
        exact, near = (predict(m, context, sites, cpu) for m in (fitted.model, model))
        assert np.corrcoef(exact.gp.ravel(), near.gp.ravel())[0, 1] > 0.99
        assert near.sd.mean() == pytest.approx(exact.sd.mean(), rel=0.1)


def test_conditioning_on_few_neighbours_is_close_to_the_whole_covariance() -> None:
    """The divergence per spot from the exact density is .025 with 16 neighbours, .031 with 8 and .067 with 3."""
    xy_um = np.stack(np.meshgrid(np.arange(14), np.arange(14)), axis=-1).reshape(-1, 2) * PITCH_UM
    n = len(xy_um)
    space = _SpaceCovariance(np.array([0.4, 0.3, 0.2]), PITCH_UM, space_scale(xy_um, PITCH_UM))
    noise = np.full(n, 0.05)
    conditioning = conditioning_sets(xy_um, np.random.default_rng(0).permutation(n))
    whitening = whitenings(xy_um, [noise], conditioning, [space])[0].toarray()
    whitened = whitening @ (space(xy_um, xy_um) + np.diag(noise)) @ whitening.T
    divergence = (np.trace(whitened) - n - np.linalg.slogdet(whitened)[1]) / 2 / n
    assert 0 < divergence < 0.028

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import check_grad

from spamcaf.model import gaussian_process
from spamcaf.model.data import ImageFeatures
from spamcaf.model.gaussian_process import Hyperparameters, Kernels, condition, learn_hyperparameters, out_of_fold
from spamcaf.sections.sites import Measured

KernelsOf = Callable[..., Kernels]


@pytest.fixture
def kernels(kernels_of: KernelsOf, visible: Measured) -> Kernels:
    return kernels_of(visible)


def _hyper(n_programs: int) -> Hyperparameters:
    weights = np.tile([0.5, 0.2, 0.3, 0.4, 0.1], (n_programs, 1))
    return Hyperparameters(weights, np.full(n_programs, 0.6), reference_depth=1500.0)


def _drawn(kernels: Kernels, hyper: Hyperparameters, depth: np.ndarray, seed: int) -> np.ndarray:
    """Scores (spot, program) drawn from the process itself."""
    rng, gram, scores = np.random.default_rng(seed), kernels.gram(), []
    for j in range(len(hyper.noise)):
        covariance = hyper.covariance(gram, j) + np.diag(hyper.noise_of(depth, j))
        scores.append(rng.multivariate_normal(np.zeros(len(depth)), covariance, method="eigh"))
    return np.stack(scores, axis=1)


def test_the_gradient_is_the_loss_own(kernels: Kernels, visible: Measured) -> None:
    flat = kernels.gram().reshape(5, -1).astype(np.float64)
    y = np.random.default_rng(0).normal(size=len(visible))
    rest = (flat, y, np.ones(len(y)), np.zeros(6))
    start = np.log([0.3, 0.1, 0.2, 0.5, 0.1, 0.7])

    def value(x: np.ndarray) -> float:
        return gaussian_process._loss(x, *rest)[0]

    def gradient(x: np.ndarray) -> np.ndarray:
        return gaussian_process._loss(x, *rest)[1]

    assert check_grad(value, gradient, start) < 1e-3 * np.linalg.norm(gradient(start))


def test_learning_tells_signal_from_noise(kernels: Kernels, visible: Measured) -> None:
    rng = np.random.default_rng(0)
    scores = _drawn(kernels, _hyper(1), visible.depth, seed=1)
    noise = scores.std() * rng.normal(size=scores.shape)
    hyper = learn_hyperparameters(kernels.gram(), np.hstack([scores, noise]), visible.depth)
    share = hyper.weights.sum(axis=1) / (hyper.weights.sum(axis=1) + hyper.noise)
    assert share[0] > 0.5 > share[1]


def test_learned_hyperparameters_scale_with_the_scores(kernels: Kernels, visible: Measured) -> None:
    scores = _drawn(kernels, _hyper(2), visible.depth, seed=2)
    one = learn_hyperparameters(kernels.gram(), scores, visible.depth)
    ten = learn_hyperparameters(kernels.gram(), 10 * scores, visible.depth)
    np.testing.assert_allclose(ten.weights, 100 * one.weights, rtol=1e-3)
    np.testing.assert_allclose(ten.noise, 100 * one.noise, rtol=1e-3)


def test_shallow_spots_are_noisier() -> None:
    hyper = _hyper(1)
    deep, shallow = hyper.noise_of(np.array([6000.0, 1500.0]), 0)
    assert shallow == pytest.approx(2 * deep)
    assert shallow == pytest.approx(0.6)


def test_out_of_fold_equals_conditioning_on_the_other_folds(
    kernels: Kernels, visible: Measured, folds: np.ndarray
) -> None:
    hyper, gram = _hyper(2), kernels.gram().astype(np.float64)
    scores = _drawn(kernels, hyper, visible.depth, seed=3)
    mean, variance = out_of_fold(hyper, gram.astype(np.float32), scores, visible.depth, folds)
    held, rest = folds == 1, folds != 1
    for j in range(2):
        signal = np.tensordot(hyper.weights[j], gram, axes=1)
        inside = signal[np.ix_(rest, rest)] + np.diag(hyper.noise_of(visible.depth[rest], j))
        pull = np.linalg.solve(inside, signal[np.ix_(rest, held)])
        np.testing.assert_allclose(mean[held, j], pull.T @ scores[rest, j], atol=1e-4)
        explained = np.einsum("rh,rh->h", pull, signal[np.ix_(rest, held)])
        np.testing.assert_allclose(variance[held, j], np.diagonal(signal)[held] - explained, atol=1e-4)


def test_conditioning_predicts_hidden_spots_with_honest_variance(
    kernels_of: KernelsOf, section: Measured, is_hidden: np.ndarray
) -> None:
    everywhere = kernels_of(section)
    errors, claimed = [], []
    for seed in range(6):
        scores = _drawn(everywhere, _hyper(1), section.depth, seed)
        seen, hidden = section.at(~is_hidden), section.at(is_hidden)
        centre = scores[~is_hidden].mean(axis=0)
        known = condition(kernels_of(seen), _hyper(1), scores[~is_hidden] - centre, seen.depth)
        image_features = ImageFeatures.of(hidden.sites).minus(ImageFeatures.of(seen.sites).centre())
        mean, variance = known.at(image_features, hidden.sites.xy_um)
        errors.append(np.square(centre + mean - scores[is_hidden]))
        claimed.append(variance + _hyper(1).noise_of(hidden.depth, 0)[:, None])
    assert np.mean(errors) == pytest.approx(np.mean(claimed), rel=0.2)


def test_sites_are_independent_of_each_other(kernels: Kernels, visible: Measured, section: Measured) -> None:
    scores = _drawn(kernels, _hyper(2), visible.depth, seed=4)
    known = condition(kernels, _hyper(2), scores, visible.depth)
    sites = section.sites
    whole = known.at(ImageFeatures.of(sites), sites.xy_um)
    part = known.at(ImageFeatures.of(sites.at(slice(5, 9))), sites.xy_um[5:9])
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[5:9], b, atol=1e-5)

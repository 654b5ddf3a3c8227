from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import check_grad

from spamcaf.model import gaussian_process
from spamcaf.model.data import ImageFeatures, PooledSections
from spamcaf.model.gaussian_process import (
    IMAGE_KERNELS,
    SPACE_KERNELS,
    Hyperparameters,
    Kernels,
    add_gene_covariances,
    condition,
    learn_hyperparameters,
    out_of_fold,
    space_kernels,
)
from spamcaf.sections.sites import Measured

KernelsOf = Callable[..., Kernels]


@pytest.fixture
def kernels(kernels_of: KernelsOf, visible: Measured) -> Kernels:
    return kernels_of(visible)


def _hyper(n_programs: int) -> Hyperparameters:
    weights = np.tile([0.5, 0.2, 0.3, 0.4, 0.1], (n_programs, 1))
    return Hyperparameters(weights, np.full(n_programs, 0.6), np.arange(n_programs), reference_depth=1500.0)


def _drawn(kernels: Kernels, hyper: Hyperparameters, depth: np.ndarray, seed: int) -> np.ndarray:
    """Scores (spot, program) drawn from the process itself."""
    rng, gram, scores = np.random.default_rng(seed), kernels.gram(), []
    for j in range(len(hyper.noise)):
        covariance = hyper.covariance(gram, j) + np.diag(hyper.noise_of(depth, j))
        scores.append(rng.multivariate_normal(np.zeros(len(depth)), covariance, method="eigh"))
    return np.stack(scores, axis=1)


def test_kernels_of_space_have_their_length_scales() -> None:
    distance = np.array([0.0, 1.0, 2.5, 7.0])
    matern = [(1 + np.sqrt(3) * distance / scale) * np.exp(-np.sqrt(3) * distance / scale) for scale in (2, 5)]
    np.testing.assert_allclose(space_kernels(distance), [*matern, np.exp(-distance / 3)], rtol=1e-6)


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
        image_features = ImageFeatures.from_sites(hidden.sites).minus(ImageFeatures.from_sites(seen.sites).mean())
        mean, variance = known.at(image_features, hidden.sites.xy_um)
        errors.append(np.square(centre + mean - scores[is_hidden]))
        claimed.append(variance + _hyper(1).noise_of(hidden.depth, 0)[:, None])
    assert np.mean(errors) == pytest.approx(np.mean(claimed), rel=0.2)


def test_sites_are_independent_of_each_other(kernels: Kernels, visible: Measured, section: Measured) -> None:
    scores = _drawn(kernels, _hyper(2), visible.depth, seed=4)
    known = condition(kernels, _hyper(2), scores, visible.depth)
    sites = section.sites
    whole = known.at(ImageFeatures.from_sites(sites), sites.xy_um)
    part = known.at(ImageFeatures.from_sites(sites.at(slice(5, 9))), sites.xy_um[5:9])
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a[5:9], b, atol=1e-5)


PITCH_UM = 100.0


def centred(measured: Measured) -> ImageFeatures:
    image_features = ImageFeatures.from_sites(measured.sites)
    return image_features.minus(image_features.mean())


def test_each_kernel_is_centred_with_mean_diagonal_one_and_positive(kernels: Kernels) -> None:
    gram = kernels.gram()
    assert len(gram) == len(IMAGE_KERNELS + SPACE_KERNELS)
    for kernel in gram.astype(np.float64):
        np.testing.assert_allclose(kernel.mean(axis=0), 0, atol=1e-5)
        assert np.diagonal(kernel).mean() == pytest.approx(1, abs=1e-4)
        assert np.linalg.eigvalsh((kernel + kernel.T) / 2).min() > -1e-4


def test_sites_at_the_spots_see_the_gram_matrix(kernels: Kernels, visible: Measured) -> None:
    cross, diagonal = kernels.cross(centred(visible), visible.sites.xy_um)
    gram = kernels.gram()
    np.testing.assert_allclose(cross, gram, atol=1e-5)
    np.testing.assert_allclose(diagonal, np.stack([np.diagonal(k) for k in gram]), atol=1e-5)


def test_without_positions_only_pictures_speak(kernels_of: KernelsOf, visible: Measured) -> None:
    kernels = kernels_of(visible, with_space=False)
    moved = visible.sites.xy_um + 1e6
    here = kernels.cross(centred(visible), visible.sites.xy_um)[0]
    np.testing.assert_array_equal(kernels.cross(centred(visible), moved)[0], here)
    assert len(here) == len(IMAGE_KERNELS)


def test_a_nearly_dead_channel_stays_dead(visible: Measured) -> None:
    image_features, section = centred(visible), np.zeros(len(visible), np.int64)
    dead = 1e-6 * np.random.default_rng(0).normal(size=(len(visible), 1)).astype(np.float32)
    more = ImageFeatures(
        np.hstack([image_features.target, dead]), image_features.neighbourhood, image_features.residual_norm2
    )
    plain = Kernels.of_spots(image_features, None, section, PITCH_UM).gram()
    np.testing.assert_allclose(Kernels.of_spots(more, None, section, PITCH_UM).gram(), plain, atol=1e-4)


def test_distance_counts_in_pitches(kernels_of: KernelsOf, visible: Measured) -> None:
    stretched = replace(visible, sites=replace(visible.sites, xy_um=2 * visible.sites.xy_um))
    twice = kernels_of(stretched, pitch_um=2 * PITCH_UM).gram()
    np.testing.assert_allclose(twice, kernels_of(visible).gram(), atol=1e-5)


def test_space_ends_at_the_border_of_a_section_and_pictures_do_not(pool_of_three: PooledSections) -> None:
    pooled = pool_of_three
    kernels = Kernels.of_spots(pooled.image_features, pooled.sites.xy_um, pooled.section, PITCH_UM)
    gram, apart = kernels.gram(), pooled.section[:, None] != pooled.section
    n_image = len(IMAGE_KERNELS)
    assert np.abs(gram[n_image:, apart]).max() == 0
    assert np.abs(gram[:n_image, apart]).max() > 0.1
    target_section = pooled.section == 0
    cross, _ = kernels.cross(pooled.image_features.at(target_section), pooled.sites.xy_um[target_section])
    np.testing.assert_allclose(cross, gram[:, target_section], atol=1e-5)


def test_genes_share_a_mixture_and_take_the_most_likely_noise(
    visible: Measured, kernels_of: Callable[..., Kernels]
) -> None:
    gram = kernels_of(visible).gram()
    hyper = _hyper(2)
    mixture = (hyper.weights / hyper.weights.sum(axis=1, keepdims=True)).mean(axis=0)
    rng = np.random.default_rng(0)
    shape = np.sqrt(hyper.reference_depth / visible.depth)
    covariance = np.tensordot(mixture, gram.astype(np.float64), axes=1)
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(visible)))
    drawn = [
        2
        * (
            root @ rng.normal(size=(len(visible), 40))
            + np.sqrt(r * shape)[:, None] * rng.normal(size=(len(visible), 40))
        )
        for r in (0.3, 30.0)
    ]
    found = add_gene_covariances(hyper, gram, np.hstack(drawn), visible.depth)
    assert found.covariance_of[:2].tolist() == [0, 1] and len(found.covariance_of) == 82
    noise = found.noise[found.covariance_of[2:]]
    assert np.median(noise[:40]) == 0.3 and np.median(noise[40:]) >= 10
    np.testing.assert_allclose(found.weights[2:], np.tile(mixture, (len(found) - 2, 1)))


def test_a_gene_s_noise_is_the_most_likely_of_those_tried(visible: Measured, kernels_of: KernelsOf) -> None:
    """Against the likelihood of each ratio written out, with depths that differ a hundredfold."""
    gram, hyper, rng = kernels_of(visible).gram(), _hyper(2), np.random.default_rng(1)
    depth = rng.lognormal(7, 1.5, len(visible))
    covariance = np.tensordot(hyper.weights[0] / hyper.weights[0].sum(), gram.astype(np.float64), axes=1)
    shape = np.diag(np.sqrt(hyper.reference_depth / depth))
    n = len(visible)
    genes = np.hstack(
        [np.linalg.cholesky(covariance + r * shape) @ rng.normal(size=(n, 8)) for r in gaussian_process.NOISE_RATIOS]
    )
    likelihood = []
    for ratio in gaussian_process.NOISE_RATIOS:
        root = np.linalg.cholesky(covariance + ratio * shape)
        scale = np.square(np.linalg.solve(root, genes)).mean(axis=0)
        likelihood.append(-n / 2 * np.log(scale) - np.log(np.diag(root)).sum())
    found = add_gene_covariances(hyper, gram, genes, depth)
    expected = np.array(gaussian_process.NOISE_RATIOS)[np.argmax(likelihood, axis=0)]
    np.testing.assert_array_equal(found.noise[found.covariance_of[2:]], expected)
    assert len(set(expected)) == len(gaussian_process.NOISE_RATIOS)


def test_columns_of_one_covariance_are_predicted_as_each_alone(
    visible: Measured, folds: np.ndarray, kernels_of: Callable[..., Kernels]
) -> None:
    kernels, rng = kernels_of(visible), np.random.default_rng(0)
    scores = rng.normal(size=(len(visible), 3))
    shared = replace(_hyper(2), covariance_of=np.array([1, 0, 1]))
    sites = ImageFeatures.from_sites(visible.sites)
    sites, xy_um = sites.minus(sites.mean()), visible.sites.xy_um + 30
    known = condition(kernels, shared, scores, visible.depth).at(sites, xy_um)
    left_out = out_of_fold(shared, kernels.gram(), scores, visible.depth, folds)
    for column, number in enumerate(shared.covariance_of):
        alone = replace(
            shared, weights=shared.weights[[number]], noise=shared.noise[[number]], covariance_of=np.zeros(1, int)
        )
        one = scores[:, [column]]
        for both, single in (
            (known, condition(kernels, alone, one, visible.depth).at(sites, xy_um)),
            (left_out, out_of_fold(alone, kernels.gram(), one, visible.depth, folds)),
        ):
            for a, b in zip(both, single, strict=True):
                np.testing.assert_allclose(a[:, column], b[:, 0], rtol=1e-4, atol=1e-5)


def test_scores_that_do_not_vary_are_predicted_as_they_are(
    visible: Measured, folds: np.ndarray, kernels_of: Callable[..., Kernels]
) -> None:
    kernels, scores = kernels_of(visible), np.zeros((len(visible), 1))
    hyper = learn_hyperparameters(kernels.gram(), scores, visible.depth)
    for found in (*out_of_fold(hyper, kernels.gram(), scores, visible.depth, folds),):
        assert np.isfinite(found).all() and np.abs(found).max() < 1e-3

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.model.programs import Programs, learn_programs, row_weights, source_weights


def _planted(noise: float, seed: int = 0, n: int = 120, loadings: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two patterns of 50 genes, without and with noise; spots of equal `loadings` share the patterns."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 2)) @ np.random.default_rng(1000 + loadings).normal(size=(2, 50))
    noisy = truth + noise * rng.normal(size=truth.shape)
    return truth, noisy - noisy.mean(axis=0)


def _learn(rows: np.ndarray, n_programs: int, sources: tuple[np.ndarray, ...] = ()) -> Programs:
    return learn_programs(rows, sources, n_programs, rows.shape[1], 0)[0]


def test_decoding_scores_denoises() -> None:
    truth, noisy = _planted(noise=1.0)
    programs = _learn(noisy, 8)
    assert np.square(programs.decode(programs.scores(noisy)) - truth).mean() < 0.16


def test_programs_of_noise_are_shrunk_and_dropped() -> None:
    _, noisy = _planted(noise=1.0)
    signal_fraction = _learn(noisy, 40).signal_fraction
    assert signal_fraction[:2].min() > 0.8
    assert signal_fraction[2:].max(initial=0) < 0.7
    assert 2 <= len(signal_fraction) < 40


def test_loadings_are_orthonormal_and_scores_centred() -> None:
    _, noisy = _planted(noise=0.3)
    programs = _learn(noisy, 2)
    np.testing.assert_allclose(programs.loadings @ programs.loadings.T, np.eye(len(programs)), atol=1e-9)
    np.testing.assert_allclose(programs.scores(noisy).mean(axis=0), 0, atol=1e-9)


def test_programs_of_one_section_are_those_of_a_singular_value_decomposition() -> None:
    _, noisy = _planted(noise=0.3)
    programs = _learn(noisy, 2)
    _, _, axes = np.linalg.svd(noisy / np.sqrt(noisy.std(axis=0)), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(programs.loadings * axes[:2], axis=1)), 1, atol=1e-9)


def test_a_gene_is_divided_by_the_root_of_its_deviation() -> None:
    _, noisy = _planted(noise=0.3)
    np.testing.assert_allclose(_learn(noisy, 2).gene_scale, np.sqrt(noisy.std(axis=0)))


def test_a_constant_gene_stays_at_its_mean() -> None:
    _, noisy = _planted(noise=0.3)
    noisy[:, 7] = 0
    programs = _learn(noisy, 4)
    np.testing.assert_allclose(programs.decode(10 * np.ones((3, len(programs))))[:, 7], 0, atol=1e-9)


def test_variance_is_that_of_decoded_draws() -> None:
    _, noisy = _planted(noise=0.3)
    programs = _learn(noisy, 2)
    variance = np.array([[2.0, 0.5]])
    draws = np.random.default_rng(0).normal(size=(40_000, 2)) * np.sqrt(variance)
    np.testing.assert_allclose(programs.decode_variance(variance)[0], programs.decode(draws).var(axis=0), rtol=0.05)


@pytest.mark.parametrize("n_spots", [4, 9, 20])
def test_few_spots_are_enough_to_run(n_spots: int) -> None:
    programs = _learn(_planted(noise=0.3)[1][:n_spots], 8)
    assert np.isfinite(programs.loadings).all()
    assert 1 <= len(programs) <= 8


def test_only_the_first_genes_are_predicted_and_all_tell_about_the_scores() -> None:
    truth, noisy = _planted(noise=1.0)
    some, _ = learn_programs(noisy, [], 4, 10, 0)
    alone = _learn(noisy[:, :10], 4)
    assert some.decode(some.scores(noisy)).shape == (120, 10)
    errors = [
        np.square(p.decode(p.scores(x)) - truth[:, :10]).mean() for p, x in ((some, noisy), (alone, noisy[:, :10]))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_a_source_of_the_same_tissue_counts_and_improves_the_programs() -> None:
    truth, few = _planted(noise=2.0, n=25)
    _, same = _planted(noise=2.0, seed=5, n=300)
    _, foreign = _planted(noise=2.0, seed=6, n=300, loadings=1)
    programs, weights = learn_programs(few, [same, foreign], 2, 50, 0)
    assert weights.sum() == pytest.approx(1)
    assert weights[1] > 0.5
    assert weights[2] < 0.25
    errors = [np.square(p.decode(p.scores(few)) - truth).mean() for p in (programs, _learn(few, 2))]
    assert errors[0] < 0.8 * errors[1]


def test_a_source_of_opposite_covariance_gets_no_weight() -> None:
    _, own = _planted(noise=0.5)
    values, vectors = np.linalg.eigh(own.T @ own / len(own))
    turned = vectors[:, ::-1] * np.sqrt(np.maximum(values, 0))  # its large directions are the small ones here
    weights = source_weights(own, [own.T @ own / len(own), turned @ turned.T])
    assert weights[1] < 0.05


def test_a_large_noiseless_section_needs_no_source() -> None:
    _, own = _planted(noise=0.1, n=4000)
    _, same = _planted(noise=0.1, seed=5, n=40)
    assert learn_programs(own, [same], 2, 50, 0)[1][0] > 0.9


def test_genes_without_any_common_variation_leave_the_section_alone() -> None:
    rows = np.zeros((10, 5))
    programs, weights = learn_programs(rows, [rows], 3, 5, 0)
    assert weights.tolist() == [1, 0] and len(programs) == 1


def test_deeper_spots_weigh_more_and_the_mean_weight_is_one() -> None:
    weights = row_weights(np.array([100.0, 400.0, 1600.0]))
    np.testing.assert_allclose(np.square(weights).mean(), 1)
    np.testing.assert_allclose(np.square(weights[1:] / weights[:-1]).ravel(), 2)

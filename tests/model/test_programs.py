from __future__ import annotations

import numpy as np
import pytest

from spamcaf.model.programs import Programs, learn_programs


def _planted(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 50))
    noisy = truth + noise * rng.normal(size=truth.shape)
    return truth, noisy - noisy.mean(axis=0)


def test_decoding_scores_denoises() -> None:
    truth, noisy = _planted(noise=1.0)
    programs = learn_programs(noisy, 8)
    assert np.square(programs.decode(programs.scores(noisy)) - truth).mean() < 0.16


def test_programs_of_noise_are_shrunk_and_dropped() -> None:
    _, noisy = _planted(noise=1.0)
    signal_fraction = learn_programs(noisy, 40).signal_fraction
    assert signal_fraction[:2].min() > 0.9
    assert signal_fraction[2:].max() < 0.7
    assert 2 <= len(signal_fraction) < 40


def test_loadings_are_orthonormal_and_scores_centred() -> None:
    _, noisy = _planted(noise=0.3)
    programs = learn_programs(noisy, 2)
    np.testing.assert_allclose(programs.loadings @ programs.loadings.T, np.eye(len(programs)), atol=1e-9)
    np.testing.assert_allclose(programs.scores(noisy).mean(axis=0), 0, atol=1e-9)


def test_a_gene_is_divided_by_the_root_of_its_deviation() -> None:
    _, noisy = _planted(noise=0.3)
    np.testing.assert_allclose(learn_programs(noisy, 2).gene_scale, np.sqrt(noisy.std(axis=0)))


def test_a_constant_gene_stays_at_its_mean() -> None:
    _, noisy = _planted(noise=0.3)
    noisy[:, 7] = 0
    programs = learn_programs(noisy, 4)
    np.testing.assert_allclose(programs.decode(10 * np.ones((3, len(programs))))[:, 7], 0, atol=1e-9)


def test_variance_is_that_of_decoded_draws() -> None:
    _, noisy = _planted(noise=0.3)
    programs = learn_programs(noisy, 2)
    variance = np.array([[2.0, 0.5]])
    draws = np.random.default_rng(0).normal(size=(40_000, 2)) * np.sqrt(variance)
    np.testing.assert_allclose(programs.decode_variance(variance)[0], programs.decode(draws).var(axis=0), rtol=0.05)


@pytest.mark.parametrize("n_spots", [4, 9, 20])
def test_few_spots_are_enough_to_run(n_spots: int) -> None:
    programs = learn_programs(_planted(noise=0.3)[1][:n_spots], 8)
    assert isinstance(programs, Programs)
    assert np.isfinite(programs.loadings).all()
    assert 1 <= len(programs) <= 8

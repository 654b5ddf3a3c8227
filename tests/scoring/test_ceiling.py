"""The noise ceiling is what a predictor that knows the truth can reach."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.scoring.metrics import noise_ceiling, summarise_ceiling

N_SPOTS, N_GENES = 400, 25


def _counts(depth: float, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts of a panel, total depths, and the true share of each gene."""
    rng = np.random.default_rng(1)
    share = 0.002 * np.exp(spread * rng.normal(size=(N_SPOTS, N_GENES)))
    counts = rng.poisson(share * depth)
    rest = rng.poisson((1 - share.sum(axis=1)) * depth)
    return counts, counts.sum(axis=1) + rest, share


def _genes() -> list[str]:
    return [f"g{i}" for i in range(N_GENES)]


def test_deep_counts_have_a_ceiling_near_one_and_shallow_ones_a_lower() -> None:
    means = []
    for depth in (1e6, 1e4, 1e3):
        counts, total, _ = _counts(depth)
        means.append(summarise_ceiling(noise_ceiling(counts, total, _genes(), 0))["pcc_mean"])
    assert means[0] > 0.98
    assert means[0] > means[1] + 0.05 > means[2] + 0.1


@pytest.mark.parametrize("depth", [2e3, 1e4])
def test_is_what_the_true_expression_reaches(depth: float) -> None:
    counts, total, share = _counts(depth)
    measured = np.log1p(counts / total[:, None] * 1e4)
    reached = [np.corrcoef(np.log1p(1e4 * share[:, j]), measured[:, j])[0, 1] for j in range(N_GENES)]
    found = noise_ceiling(counts, total, _genes(), 0)["ceiling"]
    assert found.mean() == pytest.approx(np.mean(reached), abs=0.05)


def test_pure_noise_has_a_ceiling_near_zero() -> None:
    counts, total, _ = _counts(1e4, spread=0.0)
    assert noise_ceiling(counts, total, _genes(), 0)["reliability"].mean() < 0.1


def test_repeats_by_seed_and_marks_constant_genes() -> None:
    counts, total, _ = _counts(1e4)
    counts[:, 0] = 0
    first, second = (noise_ceiling(counts, total, _genes(), 3) for _ in range(2))
    np.testing.assert_array_equal(first["ceiling"], second["ceiling"])
    assert np.isnan(first.loc[0, "ceiling"])
    assert summarise_ceiling(first)["n_undefined"] == 1


def test_refuses_normalised_values_and_a_depth_of_the_panel_alone() -> None:
    counts, total, _ = _counts(1e4)
    with pytest.raises(ValueError, match="raw counts"):
        noise_ceiling(np.log1p(counts), total, _genes(), 0)
    with pytest.raises(ValueError, match="depth to be at least"):
        noise_ceiling(counts, counts.sum(axis=1) - 1, _genes(), 0)

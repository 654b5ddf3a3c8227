from __future__ import annotations

import numpy as np
import pytest

from spamcaf.model.mixing import Stacking, gene_noise, gene_weights, stacking_weights


def _votes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, a good and a bad prediction, and folds."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, 2))
    return truth, truth + 0.3 * rng.normal(size=(n, 2)), rng.normal(size=(n, 2))


def test_a_better_network_gets_the_weight_and_a_worse_one_none() -> None:
    truth, good, bad = _votes(400)
    folds = np.arange(400) % 4
    assert stacking_weights(truth, bad, good, folds).min() > 0.9
    assert stacking_weights(truth, good, bad, folds).max() < 0.05


def test_few_spots_give_little_weight() -> None:
    truth, good, bad = _votes(400)
    few = stacking_weights(truth[:8], bad[:8], good[:8], np.arange(8) % 2)
    assert few.max() < 0.7


def test_a_networks_mere_offset_per_fold_is_forgiven() -> None:
    truth, good, bad = _votes(400)
    folds = np.arange(400) % 4
    shifted = good + folds[:, None]
    np.testing.assert_allclose(
        stacking_weights(truth, bad, shifted, folds), stacking_weights(truth, bad, good, folds), atol=1e-9
    )


def test_predictions_are_combined_by_weight() -> None:
    stacking = Stacking(np.array([0.0, 0.25, 1.0]), np.ones(0), np.ones(1))
    np.testing.assert_allclose(stacking.combine(np.zeros((1, 3)), np.full((1, 3), 4.0)), [[0.0, 1.0, 4.0]])


def test_predicted_variance_matches_the_error() -> None:
    rng = np.random.default_rng(0)
    expression = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 30)) + rng.normal(size=(200, 30))
    predicted, variance = 0.7 * expression, rng.random(expression.shape) * 0.01
    claimed = variance.mean(axis=0) + gene_noise(expression, predicted, variance)
    assert claimed == pytest.approx(np.square(expression - predicted).mean(axis=0))


def test_a_genes_own_process_counts_where_it_is_better() -> None:
    truth, good, bad = _votes(400)
    folds = np.arange(400) % 4
    mixed = gene_weights(
        truth, np.column_stack([bad[:, 0], good[:, 1]]), np.column_stack([good[:, 0], bad[:, 1]]), folds
    )
    assert mixed[0] > 0.7
    assert mixed[1] < 0.3
    assert gene_weights(truth, bad, good, folds).min() > 0.9
    assert gene_weights(truth, good, bad, folds).max() < 0.1
    assert gene_weights(truth[:, :0], good[:, :0], bad[:, :0], folds).shape == (0,)

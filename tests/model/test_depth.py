from __future__ import annotations

import numpy as np
import pytest

from spamcaf.model.depth import LOG_DEPTHS, ExpressionMeans, expected_expression, log_depth
from spamcaf.model.programs import Programs


@pytest.fixture(scope="module")
def counted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates (gene,), depth (spot,) and counts (spot, gene) of spots that differ in nothing but depth."""
    rng = np.random.default_rng(0)
    rate = np.array([1e-6, 1e-4, 1e-3, 0.01, 0.2])
    depth = np.exp(rng.normal(np.log(2000), 0.8, size=20_000)).round()
    return rate, depth, rng.poisson(rate * depth[:, None])


def test_the_curve_is_the_mean_of_counted_spots(counted: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    table = expected_expression(np.array([1e-4, 1e-3, 0.05]))
    for row in (0, 20, 40, 60):
        depth = np.exp(LOG_DEPTHS[row])
        drawn = np.log1p(1e4 * rng.poisson(np.array([1e-4, 1e-3, 0.05]) * depth, (200_000, 3)) / depth)
        np.testing.assert_allclose(table[row], drawn.mean(axis=0), atol=4 * drawn.std(axis=0).max() / 400)


def test_the_sum_and_the_expansion_meet() -> None:
    # a mean count of 60 at a depth of 1000: below it the sum, above it the expansion
    row = int(np.argmin(np.abs(LOG_DEPTHS - np.log(1000))))
    at = 60 / np.exp(LOG_DEPTHS[row])
    below, above = expected_expression(np.array([at * (1 - 1e-9), at * (1 + 1e-9)]))[row]
    assert below == pytest.approx(above, abs=3e-4)


def test_depth_explains_all_where_rates_are_constant(counted: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    rate, depth, counts = counted
    expression = np.log1p(1e4 * counts / depth[:, None])
    means = ExpressionMeans.from_spots(expression, depth)
    np.testing.assert_allclose(means.rate, counts.sum(axis=0) / depth.sum(), rtol=1e-6)
    residual = means.residuals(expression, depth)
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-12)
    varying = rate > 1e-5
    before = np.abs([np.corrcoef(column, np.log(depth))[0, 1] for column in expression.T[varying]])
    after = np.abs([np.corrcoef(column, np.log(depth))[0, 1] for column in residual.T[varying]])
    assert before.max() > 0.25 and after.max() < 0.03


def test_scores_decode_to_the_expression_they_are_of(counted: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, depth, counts = counted
    depth, counts = depth[:300], counts[:300]
    expression = np.log1p(1e4 * counts / depth[:, None])
    means = ExpressionMeans.from_spots(expression, depth)
    whole = Programs(np.ones(5), np.eye(5), np.ones(5), 5)  # programs that lose nothing
    scores = means.scores(whole, expression, depth)
    np.testing.assert_allclose(scores[:, 0].mean(), 0, atol=1e-9)
    np.testing.assert_allclose(means.decode(whole, scores), expression, atol=1e-9)


def test_variance_of_depth_is_carried_to_genes(counted: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, depth, counts = counted
    means = ExpressionMeans.from_spots(np.log1p(1e4 * counts / depth[:, None]), depth)
    programs = Programs(np.ones(5), np.eye(5)[:2], np.array([0.5, 1.0]), 5)
    rng = np.random.default_rng(3)
    centre, variance = np.array([[0.1, 0.3, -0.2]]), np.array([[0.01, 0.2, 0.1]])
    drawn = means.decode(programs, centre + rng.normal(size=(50_000, 3)) * np.sqrt(variance))
    np.testing.assert_allclose(means.decode_variance(programs, centre, variance)[0], drawn.var(axis=0), rtol=0.15)


def test_depths_outside_the_table_are_taken_at_its_ends() -> None:
    assert log_depth(np.array([0.0, 10.0, 50.0]))[0] == pytest.approx(np.log(50))
    means = ExpressionMeans(np.array([1e-3]), float(np.log(1000)), np.zeros(1), np.zeros(1))
    far = means.by_depth(np.array([[20.0], [40.0], [-20.0], [-40.0]]), 1)
    assert np.isfinite(far).all() and far[0] == far[1] and far[2] == far[3]


def test_means_of_sections_are_averaged() -> None:
    a, b = (ExpressionMeans(np.array([r]), d, np.array([1.0]), np.array([2.0])) for r, d in ((1e-3, 7.0), (3e-3, 8.0)))
    mean = ExpressionMeans.mean_of([a, b])
    assert (mean.rate[0], mean.log_depth) == (pytest.approx(2e-3), 7.5)

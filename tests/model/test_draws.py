from __future__ import annotations

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.model import draws as drawing
from spamcaf.model.depth import LOG_DEPTHS, simulate_counts
from spamcaf.model.draws import _PriorSample, draw_expression
from spamcaf.model.fit import Fitted
from spamcaf.model.gaussian_process import space_kernels
from spamcaf.parameters import ComputeSettings, InferenceSettings
from spamcaf.peers.models import predict
from spamcaf.scoring.metrics import gene_structure, score_draws
from spamcaf.sections.sites import Measured


@pytest.fixture(scope="module")
def hidden(section: Measured, is_hidden: np.ndarray) -> Measured:
    return section.at(is_hidden)


@pytest.fixture(scope="module")
def mean(fitted: Fitted, visible: Measured, hidden: Measured, cpu: ComputeSettings) -> np.ndarray:
    return predict(fitted.model, visible, hidden.sites, cpu).mean


def test_samples_of_the_prior_have_its_covariance() -> None:
    rng = np.random.default_rng(0)
    xy_um = np.array([[0.0, 0.0], [100.0, 0.0], [300.0, 100.0], [800.0, 0.0]])
    weights, scales = (
        np.array([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]),
        (1.0, 1.0),
    )
    features = drawing.ImageFeatures(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32), np.zeros((4, 2)))
    drawn = np.stack(
        [_PriorSample.draw(rng, weights, 2, scales, np.ones(3), 100.0).at(features, xy_um) for _ in range(3000)]
    )  # (sample, site, score)
    distance = np.linalg.norm(xy_um[:, None] - xy_um, axis=-1) / 100.0
    for score, expected in enumerate(space_kernels(distance)):
        np.testing.assert_allclose(np.cov(drawn[:, :, score].T), expected, atol=0.12)


def test_draws_vary_around_the_prediction(
    fitted: Fitted, visible: Measured, hidden: Measured, mean: np.ndarray
) -> None:
    drawn = draw_expression(fitted.model, visible, hidden.sites, mean, 200, "none", 0)
    assert drawn.shape == (200, *mean.shape) and drawn.dtype == np.float32
    error = np.abs(drawn.mean(axis=0) - mean) / np.maximum(drawn.std(axis=0), 1e-3)
    assert np.quantile(error, 0.95) < 4 / np.sqrt(200)


def test_draws_are_joint_over_sites_and_have_the_posterior_variance(
    fitted: Fitted, visible: Measured, hidden: Measured, cpu: ComputeSettings
) -> None:
    # far from the section nothing is known: the draws there vary more, and two sites 1 um apart vary together
    near = hidden.sites.at(slice(0, 1))
    at = [near.xy_um[0], near.xy_um[0] + 1, near.xy_um[0] + 50_000]
    sites = type(near)(np.array(at), np.repeat(near.target, 3, 0), np.repeat(near.neighbours, 3, 0))
    predicted = predict(fitted.model, visible, sites, cpu).mean
    drawn = draw_expression(fitted.model, visible, sites, predicted, 400, "none", 0)
    gene = int(drawn[:, 0].var(axis=0).argmax())
    together = np.corrcoef(drawn[:, :, gene].T)
    assert together[0, 1] > 0.99
    assert abs(together[0, 2]) < 0.5
    assert drawn[:, 2, gene].var() > 1.5 * drawn[:, 0, gene].var()


@pytest.mark.parametrize("noise", ["gene", "counts"])
def test_draws_look_like_the_measurement(
    fitted: Fitted, visible: Measured, hidden: Measured, mean: np.ndarray, noise: drawing.Noise
) -> None:
    drawn = draw_expression(fitted.model, visible, hidden.sites, mean, 12, noise, 0)
    found = score_draws(hidden.expression, drawn, hidden.sites.xy_um, 4)
    smooth = np.median(mean.var(axis=0) / hidden.expression.var(axis=0))
    assert smooth < 0.6
    assert 0.7 < found["variance_ratio"] < 1.3
    assert found["n_draws"] == 12 and found["gene_structure"] > 0.3


def test_counted_draws_are_whole_counts_at_some_depth(
    fitted: Fitted, visible: Measured, hidden: Measured, mean: np.ndarray
) -> None:
    drawn = draw_expression(fitted.model, visible, hidden.sites, mean, 1, "counts", 0)[0].astype(np.float64)
    for site in drawn[:5]:
        value = np.expm1(site)
        least = value[value > 0].min()  # of one count, or of a few
        off = [np.abs(value / (least / k) - np.rint(value / (least / k))).max() for k in (1, 2, 3, 4, 5)]
        assert min(off) < 0.02


def test_simulated_counts_have_the_expected_mean() -> None:
    rng = np.random.default_rng(0)
    expected = np.tile([0.0, 0.05, 0.8, 3.0, 6.5], (40_000, 1))
    drawn = simulate_counts(rng, expected, np.full(40_000, LOG_DEPTHS[30] + 0.03))
    np.testing.assert_allclose(drawn.mean(axis=0), expected[0], atol=0.03)


def test_equal_seeds_give_equal_draws_in_any_chunks(
    fitted: Fitted, visible: Measured, hidden: Measured, mean: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (fitted.model, visible, hidden.sites, mean, 2, "none")
    one = draw_expression(*given, 3)
    np.testing.assert_array_equal(one, draw_expression(*given, 3))
    assert not np.array_equal(one, draw_expression(*given, 4))
    monkeypatch.setattr("spamcaf.model.predict.CHUNK", 7)
    np.testing.assert_allclose(draw_expression(*given, 3), one, atol=0.2)
    assert np.median(np.abs(draw_expression(*given, 3) - one)) < 1e-3


def test_an_unmeasured_section_has_draws_too(fitted: Fitted, hidden: Measured, cpu: ComputeSettings) -> None:
    found = predict(fitted.model, None, hidden.sites, cpu, InferenceSettings(n_draws=3), 0)
    assert found.draws is not None and found.draws.shape == (3, *found.mean.shape)
    assert np.isfinite(found.draws).all() and found.draws.min() >= 0


def test_many_spots_have_draws_too(
    fitted: Fitted, visible: Measured, hidden: Measured, mean: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = draw_expression(fitted.model, visible, hidden.sites, mean, 60, "none", 0)
    fit = fitted.model.fit.model_copy(update={"max_exact_spots": 1})
    many = type(fitted.model)(**(vars(fitted.model) | {"fit": fit}))
    near = draw_expression(many, visible, hidden.sites, mean, 60, "none", 0)
    np.testing.assert_allclose(np.median(near.std(axis=0) / exact.std(axis=0)), 1, atol=0.2)


def test_gene_structure_is_the_correlation_of_correlations() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(40, 6))
    b[:, 5] = 1.0
    pairs = np.triu_indices(5, 1)
    one, two = np.corrcoef(a[:, :5].T)[pairs], np.corrcoef(b[:, :5].T)[pairs]
    assert gene_structure(a, b) == pytest.approx(np.corrcoef(one, two)[0, 1])
    assert gene_structure(a, a) == pytest.approx(1)
    assert gene_structure(a[:, :2], a[:, :2]) is None


def test_the_released_network_has_no_draws(cpu: ComputeSettings, hidden: Measured) -> None:
    from spamcaf.peers.released import ReleasedModel

    with pytest.raises(InputError, match="n_draws=2"):
        predict(ReleasedModel.__new__(ReleasedModel), None, hidden.sites, cpu, InferenceSettings(n_draws=2), 0)

"""Metrics against scipy, gene by gene."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spamcaf.scoring.metrics import score_genes, summarise

N_GENES = 300  # more than one block


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.log1p(rng.poisson(1.5, size=(80, N_GENES))).astype(np.float32)  # with ties, as counts have
    prediction = (0.5 * truth + rng.normal(size=truth.shape)).astype(np.float32)
    return truth, prediction


def _genes(n: int = N_GENES) -> list[str]:
    return [f"g{i}" for i in range(n)]


def test_agrees_with_scipy(pair) -> None:
    truth, prediction = pair
    scores = score_genes(truth, prediction, _genes())
    for i in (0, 100, 255, 256, 299):
        row = scores.iloc[i]
        assert row["gene"] == f"g{i}"
        assert row["pearson"] == pytest.approx(stats.pearsonr(truth[:, i], prediction[:, i]).statistic, abs=1e-6)
        assert row["spearman"] == pytest.approx(stats.spearmanr(truth[:, i], prediction[:, i]).statistic, abs=1e-6)
        error = prediction[:, i].astype(float) - truth[:, i]
        assert row["mse"] == pytest.approx(np.mean(error**2))
        assert row["mae"] == pytest.approx(np.mean(np.abs(error)))
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert row["variance_ratio"] == pytest.approx(prediction[:, i].var() / truth[:, i].var(), rel=1e-4)


def test_undefined_correlations_are_counted_and_scored_zero(pair) -> None:
    truth, prediction = pair
    truth[:, 0] = 0.0
    prediction[:, 1] = 0.7
    prediction[:, 2] = 0.7 + 5e-9 * np.arange(80)  # float32 rounding, not a pattern
    scores = score_genes(truth, prediction, _genes())
    assert scores["undefined"].tolist() == [True] * 3 + [False] * (N_GENES - 3)
    assert (scores.loc[:2, ["pearson", "spearman"]] == 0).all(axis=None)
    assert np.isnan(scores.loc[0, "variance_ratio"])
    assert scores.loc[1, "variance_ratio"] == pytest.approx(0.0, abs=1e-9)
    found = summarise(scores)
    assert found["n_undefined"] == 3
    assert found["pcc_mean"] == pytest.approx(scores["pearson"].sum() / N_GENES)


def test_summary_has_the_agreed_keys_in_order(pair) -> None:
    found = summarise(score_genes(*pair, _genes()))
    assert list(found) == [
        "pcc_mean",
        "pcc_median",
        "pcc_top50",
        "spearman_mean",
        "mse",
        "mae",
        "rmse",
        "share_above_0.3",
        "n_undefined",
        "variance_ratio",
    ]
    assert found["pcc_top50"] > found["pcc_mean"]


def test_top50_of_a_small_panel_is_its_mean(pair) -> None:
    truth, prediction = pair
    found = summarise(score_genes(truth[:, :20], prediction[:, :20], _genes(20)))
    assert found["pcc_top50"] == pytest.approx(found["pcc_mean"])


def test_nothing_varies(pair) -> None:
    flat = np.zeros_like(pair[0])
    found = summarise(score_genes(flat, flat, _genes()))
    assert found["n_undefined"] == N_GENES
    assert found["variance_ratio"] is None
    assert found["pcc_mean"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_the_model_and_the_number(pair, bad: float) -> None:
    truth, prediction = pair
    prediction[3:5, 7] = bad
    with pytest.raises(ValueError, match=r"kriging: found 2 of 24000 values"):
        score_genes(truth, prediction, _genes(), "kriging")
    with pytest.raises(ValueError, match=r"truth: found 2 of 24000 values"):
        score_genes(prediction, truth, _genes(), "kriging")


def test_shapes_must_agree(pair) -> None:
    truth, prediction = pair
    with pytest.raises(ValueError, match=r"ridge: expected .* found \(80, 300\) and \(79, 300\)"):
        score_genes(truth, prediction[:-1], _genes(), "ridge")
    with pytest.raises(ValueError, match="299 genes"):
        score_genes(truth, prediction, _genes(299))
    with pytest.raises(ValueError, match="2 sites and 300 genes"):
        score_genes(truth[:2], prediction[:2], _genes())

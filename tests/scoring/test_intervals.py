"""Bootstrapped scores equal those computed draw by draw, and tell apart what differs only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spamcaf.names import Metric
from spamcaf.scoring.intervals import bootstrap, correlation_differences, interval, level_with
from spamcaf.scoring.metrics import calibration, correlate, interval_coverage, summarise

N_GENES = 80


def _scores(rng: np.random.Generator, shift: float = 0.0) -> pd.DataFrame:
    columns = ["pearson", "spearman", "mse", "mae", "rmse", "variance_ratio", "pearson_depth_removed", "ssim"]
    values = rng.uniform(-0.2, 0.8, (N_GENES, len(columns))) + shift
    return pd.DataFrame(values, columns=columns).assign(undefined=False)


def test_each_sample_is_the_summary_of_the_drawn_genes() -> None:
    rows = _scores(np.random.default_rng(0))
    samples = bootstrap({"a": rows}, seed=3)
    times = np.random.default_rng(3).multinomial(N_GENES, np.full(N_GENES, 1 / N_GENES), 1000)
    for sample in (0, 1, 999):
        drawn = rows.loc[np.repeat(np.arange(N_GENES), times[sample])]
        for metric, value in summarise(drawn).items():
            if metric != Metric.UNDEFINED:
                assert samples[Metric(metric)]["a"][sample] == pytest.approx(value), metric


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    rows = _scores(np.random.default_rng(1))
    low, high = interval(bootstrap({"a": rows}, 0)[Metric.PCC_MEAN]["a"])
    half = 1.96 * rows["pearson"].std() / np.sqrt(N_GENES)
    assert (low, high) == pytest.approx((rows["pearson"].mean() - half, rows["pearson"].mean() + half), abs=0.01)


def test_genes_without_a_value_are_left_out_and_metrics_without_any_missing() -> None:
    rows = _scores(np.random.default_rng(2)).assign(variance_ratio=np.nan)
    rows.loc[0, "mse"] = np.nan
    samples = bootstrap({"a": rows.drop(columns="pearson_depth_removed")}, 0)
    assert Metric.VARIANCE_RATIO not in samples and Metric.PCC_DEPTH_REMOVED not in samples
    assert np.isfinite(samples[Metric.MSE]["a"]).all()


def test_models_are_compared_on_the_same_genes() -> None:
    rng = np.random.default_rng(3)
    a = _scores(rng)
    # a shift of .01 is far inside each model's own interval, and yet certain, since every gene has it
    rows = {"a": a, "shifted": a - 0.01, "noisy": a + rng.normal(0, 0.5, a.shape)}
    assert level_with(bootstrap(rows, 0)[Metric.PCC_MEAN], "a", list(rows)) == ["noisy"]


def test_differences_of_correlations() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(150, 300))
    good, bad = truth + rng.normal(size=truth.shape), truth + 4 * rng.normal(size=truth.shape)
    low, high = correlation_differences(truth, good, bad, 0)
    found = correlate(truth, good) - correlate(truth, bad)
    assert ((low < found) & (found < high)).all()
    assert (low > 0).mean() > 0.9
    low, high = correlation_differences(truth, bad, truth + 4 * rng.normal(size=truth.shape), 0)
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(0.95, abs=0.04)


def test_a_constant_prediction_counts_as_zero() -> None:
    truth = np.random.default_rng(5).normal(size=(100, 2)).astype(np.float32)
    low, high = correlation_differences(truth, truth, np.full_like(truth, 0.1), 0)
    np.testing.assert_allclose([low, high], 1.0, atol=1e-6)


def test_calibration_is_the_coverage_of_each_level() -> None:
    rng = np.random.default_rng(6)
    truth, sd = rng.normal(size=(60, 50)), rng.uniform(0.5, 2, (60, 50))
    curve = calibration(truth, np.zeros_like(truth), sd)
    for level, covered in curve:
        assert covered == pytest.approx(interval_coverage(truth, np.zeros_like(truth), sd, level))
    assert len(curve) > 5

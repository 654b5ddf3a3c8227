"""Charts: counts and points lie where the data say, and every gene has its outcome."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spamcaf.reporting import charts
from spamcaf.reporting.charts import calibration_curve, gene_scatter, pcc_histogram


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    ours, baseline = rng.uniform(-0.2, 0.9, (2, 200))
    outcome = np.where(ours > baseline + 0.1, "win", np.where(ours < baseline - 0.1, "loss", "level"))
    names = [f"g{i}" for i in range(200)]
    return pd.DataFrame({"gene": names, "ours": ours, "baseline": baseline, "outcome": outcome, "ceiling": np.nan})


def test_the_histogram_counts_every_gene_once(table: pd.DataFrame) -> None:
    chart = pcc_histogram(table, {"ours": "SpaMCAF", "baseline": "Kriging", "ceiling": "Noise ceiling"})
    per_gene = chart.place(0, 0)[0, 1] - chart.place(0, 1)[0, 1]
    assert sum(height for *_, height in chart.bars) / per_gene == pytest.approx(200, rel=0.01)
    assert [label for _, label in chart.legend] == ["SpaMCAF", "Kriging"]  # no ceiling is known


def test_points_lie_at_their_values_and_carry_their_gene(table: pd.DataFrame) -> None:
    chart = gene_scatter(table, "baseline", "PCC, Kriging", "t", "SpaMCAF", diagonal=True)
    assert [point["gene"] for point in chart.points] == table["gene"].tolist()
    expected = chart.place(table["baseline"], table["ours"])
    np.testing.assert_array_equal([(point["x"], point["y"]) for point in chart.points], expected)
    counts = table["outcome"].value_counts()
    labels = [f"better: {counts['win']}", f"level: {counts['level']}", f"worse: {counts['loss']}"]
    assert [label for _, label in chart.legend] == labels
    assert f"g0: PCC, Kriging {table['baseline'][0]:.2f}" in chart.points[0]["text"]
    left, top, right, bottom = chart.box
    assert all(left <= point["x"] <= right and top <= point["y"] <= bottom for point in chart.points)


def test_of_very_many_genes_some_are_drawn_and_the_caption_says_so(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "_MAX_POINTS", 50)
    chart = gene_scatter(table, "baseline", "x", "t", "SpaMCAF", diagonal=False)
    assert len(chart.points) == 50 and "Every 4.0th of 200 genes" in chart.caption
    assert sum(int(label.split()[1]) for _, label in chart.legend) == 200  # counted over all genes


def test_a_good_calibration_lies_on_the_diagonal() -> None:
    chart = calibration_curve([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]])
    points = np.array([[float(v) for v in pair.split(",")] for pair in chart.lines[1][1].split()])
    left, top, right, bottom = chart.box
    across, up = (points[:, 0] - left) / (right - left), (bottom - points[:, 1]) / (bottom - top)
    np.testing.assert_allclose(across, up, atol=1e-3)


def test_ticks_are_round_and_inside(table: pd.DataFrame) -> None:
    chart = gene_scatter(table, "baseline", "x", "t", "SpaMCAF", diagonal=True)
    assert [text for _, text in chart.x_ticks] == ["-0.2", "0", "0.2", "0.4", "0.6", "0.8"]

"""The verdict says win, draw and loss, whatever we would like to read."""

from __future__ import annotations

from spamcaf.scoring.scores import verdict


def _models(**pcc: float) -> dict[str, dict[str, float]]:
    return {name: {"pcc_mean": value} for name, value in pcc.items()}


def test_win() -> None:
    said = verdict(_models(spamcaf=0.24, idw=0.1, ridge=0.2), "hidden spots")
    assert "spamcaf beats the best baseline, ridge, by a factor of 1.20" in said


def test_loss() -> None:
    said = verdict(_models(spamcaf=0.1, idw=0.2, ridge=0.1), "hidden spots")
    assert "does NOT beat the best baseline, idw: it reaches 0.50 of it" in said


def test_draw() -> None:
    assert "is level with" in verdict(_models(spamcaf=0.2001, idw=0.2), "hidden spots")


def test_own_part_is_no_baseline_but_is_named() -> None:
    said = verdict(_models(spamcaf=0.22, program_gp=0.23, released=0.5, idw=0.11), "hidden spots")
    assert "by a factor of 2.00" in said
    assert "alone has 0.230, the network changes that by -0.010" in said


def test_no_factor_over_a_baseline_at_or_below_zero() -> None:
    assert "no factor" in verdict(_models(spamcaf=0.2, gene_mean=0.0), "hidden spots")
    assert "does not beat" in verdict(_models(spamcaf=-0.2, gene_mean=0.0), "hidden spots")


def test_nothing_to_compare() -> None:
    assert "No verdict" in verdict(_models(idw=0.2), "hidden spots")


def test_where_released_was_fitted_alone_it_is_judged() -> None:
    said = verdict(_models(released=0.1, idw=0.2), "hidden spots")
    assert said.startswith("released does NOT beat the best baseline, idw: it reaches 0.50 of it")
    assert "Gaussian process" not in said

"""Notes say what a reader would rather not hear."""

from __future__ import annotations

from spamcaf.reporting.report import honest_notes


def _all(scores) -> str:
    return "\n".join(honest_notes(scores))


def test_losses_are_named_with_figures(scores) -> None:
    said = _all(scores)
    assert "spamcaf loses at hidden spots in 3 of the scores" in said
    assert "MSE (Inverse distance, 8 neighbours, 0.450 against 0.500)" in said
    assert "spamcaf loses between the spots in 8 of the scores" in said


def test_no_loss_is_said_too(scores) -> None:
    scores["models"] = {name: scores["models"][name] for name in ("spamcaf", "gene_mean")}
    assert "No other model of the table beats spamcaf at hidden spots" in _all(scores)


def test_smooth_predictions_and_bad_intervals(scores) -> None:
    said = _all(scores)
    assert "25% of the measured" in said
    assert "80.0% of the hidden values: they are too narrow" in said
    scores["models"]["spamcaf"]["variance_ratio"] = 1.0
    scores["coverage_90"] = None
    assert "vary less" not in _all(scores)
    assert "intervals" not in _all(scores)


def test_protocol_and_undefined_genes(scores) -> None:
    assert "Hidden spots lie among visible ones" in _all(scores)
    scores["protocol"] = "block"
    scores["models"]["spamcaf"]["n_undefined"] = 2
    assert "Hidden spots lie among visible ones" not in _all(scores)
    assert "how well the model extrapolates" in _all(scores)
    assert "For 2 of 3 genes the correlation is undefined" in _all(scores)

"""The record of a run is complete, plain and true."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spamcaf.scoring.metrics import score_genes, summarise
from spamcaf.scoring.scores import build_scores


def test_structure(scored) -> None:
    scores, _ = scored
    assert list(scores) == [
        "section",
        "protocol",
        "n_train",
        "n_hidden",
        "n_buffer",
        "other_sections",
        "n_genes",
        "models",
        "noise_ceiling",
        "coverage_90",
        "verdict",
        "super_resolution",
    ]
    assert (scores["n_train"], scores["n_hidden"], scores["n_genes"]) == (110, 120, 40)
    assert list(scores["models"]) == ["spamcaf", "idw", "gene_mean"]
    assert scores["super_resolution"]["factor"] == 4
    assert scores["super_resolution"]["n_sites"] == 120
    assert list(scores["super_resolution"]["models"]) == ["spamcaf", "idw", "gene_mean", "nearest_spot"]


def test_is_strict_json(scored) -> None:
    scores, _ = scored
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_holds_what_metrics_say(run, scored) -> None:
    scores, by_gene = scored
    held_out = run["held_out"]
    expected = summarise(score_genes(held_out.expression, run["predictions"]["idw"], held_out.genes))
    assert {key: scores["models"]["idw"][key] for key in expected} == expected
    assert by_gene.groupby("model").size().to_dict() == {"gene_mean": 40, "idw": 40, "spamcaf": 40}
    ours = by_gene[by_gene["model"] == "spamcaf"]["pearson"]
    assert ours.mean() == pytest.approx(scores["models"]["spamcaf"]["pcc_mean"])


def test_share_of_the_ceiling_is_one_for_the_true_expression(scored) -> None:
    scores, _ = scored
    shares = scores["noise_ceiling"]["share_reached"]
    assert shares["spamcaf"] == pytest.approx(1.0, abs=0.05)
    assert shares["idw"] < 0.8
    assert shares["gene_mean"] == 0


def test_without_deviations(run) -> None:
    scores, _ = build_scores(**{**run, "sd": None})
    assert scores["coverage_90"] is None


def test_coverage_uses_spamcaf(run) -> None:
    scores, _ = build_scores(**{**run, "sd": np.full_like(run["sd"], 100.0)})
    assert scores["coverage_90"] == 1.0


def test_a_bad_model_is_named(run) -> None:
    run["predictions"]["idw"][0, 0] = np.nan
    with pytest.raises(ValueError, match="idw: found 1 of 4800 values"):
        build_scores(**run)

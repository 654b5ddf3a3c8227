"""The record of a run is complete, plain and true; the verdict states win, draw and loss."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.names import Metric
from spamcaf.scoring.limits import reachable_limit
from spamcaf.scoring.metrics import (
    correlate_spots,
    correlate_without_depth,
    gene_structure,
    lattice_windows,
    score_genes,
    structural_similarity,
    summarise,
)
from spamcaf.scoring.scores import (
    best_beyond_interval,
    best_model,
    build_scores,
    format_table,
    model_of,
    reach,
    verdict,
)


def test_structure(scored) -> None:
    scores, _ = scored
    assert list(scores) == [
        "section",
        "model",
        "protocol",
        "n_train",
        "n_hidden",
        "n_buffer",
        "other_sections",
        "n_genes",
        "models",
        "noise_ceiling",
        "reachable_limit",
        "coverage_90",
        "calibration",
        "intervals",
        "comparison",
        "difference",
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


def test_holds_the_values_of_metrics(run, scored) -> None:
    scores, by_gene = scored
    hidden = run["hidden"]
    windows = lattice_windows(hidden.index, "square")
    expected = summarise(
        score_genes(hidden.expression, run["predictions"]["idw"], hidden.genes, depth=hidden.depth, windows=windows)
    )
    assert {key: scores["models"]["idw"][key] for key in expected} == expected
    assert by_gene.groupby("model").size().to_dict() == {"gene_mean": 40, "idw": 40, "spamcaf": 40}
    ours = by_gene[by_gene["model"] == "spamcaf"]["pearson"]
    assert ours.mean() == pytest.approx(scores["models"]["spamcaf"]["pcc_mean"])


def test_maps_profiles_and_gene_structure_are_scored(run, scored) -> None:
    scores, by_gene = scored
    hidden, idw = run["hidden"], run["predictions"]["idw"]
    row = scores["models"]["idw"]
    assert row["pcc_spots"] == correlate_spots(hidden.expression, idw)
    assert row["gene_structure"] == gene_structure(hidden.expression, idw)
    windows = lattice_windows(hidden.index, "square")
    expected = structural_similarity(hidden.expression, idw, windows)
    np.testing.assert_array_equal(by_gene.loc[by_gene["model"] == "idw", "ssim"], expected)
    assert row["ssim"] == pytest.approx(expected.mean())
    assert scores["models"]["gene_mean"]["gene_structure"] is None
    assert scores["super_resolution"]["models"]["idw"]["ssim"] == pytest.approx(expected.mean())
    without, _ = build_scores(**{**run, "hidden": replace(hidden, index=None)})
    assert without["models"]["idw"]["ssim"] is None


def test_the_model_is_that_of_the_fit(run) -> None:
    run["predictions"]["released"] = run["predictions"].pop("spamcaf")
    run["setting"] = replace(run["setting"], model="released")
    scores, _ = build_scores(**run)
    assert model_of(scores) == "released"
    assert scores["verdict"].startswith("Released network (replica) beats the best baseline, Inverse distance")
    assert scores["coverage_90"] is not None


def test_a_record_without_its_model_is_refused_with_the_next_step(scored) -> None:
    scores, _ = scored
    del scores["model"]
    with pytest.raises(InputError, match=r"does not state its model.*Next step: Run the pipeline evaluation again\."):
        model_of(scores)


def test_the_best_model_by_metric() -> None:
    models = {"a": {"mse": 1.0, "pcc_mean": 0.2}, "b": {"mse": 0.5, "pcc_mean": 0.2}, "c": {"variance_ratio": 1.0}}
    assert best_model(models, Metric.PCC_MEAN) == "a"  # the first of equals
    assert best_model(models, Metric.MSE) == "b"
    assert best_model(models, Metric.VARIANCE_RATIO) is None
    assert best_model({}, Metric.MSE) is None


def test_without_intervals_any_difference_counts(scored) -> None:
    record = {"models": scored[0]["models"]}
    assert best_beyond_interval(record) == {metric: best_model(record["models"], metric) for metric in Metric}


def test_spots_that_were_left_out_are_told(scored) -> None:
    assert "110 visible, 40 genes" in format_table(scored[0])
    assert "110 visible, 5 between them left out, 40 genes" in format_table({**scored[0], "n_buffer": 5})


def test_share_of_the_ceiling_is_one_for_the_true_expression(scored) -> None:
    scores, _ = scored
    shares = scores["noise_ceiling"]["share_reached"]
    assert shares["spamcaf"] == pytest.approx(1.0, abs=0.05)
    assert shares["idw"] < 0.8
    assert shares["gene_mean"] == 0


def test_the_reachable_limit_stands_beside_the_ceiling(run, scored) -> None:
    scores, by_gene = scored
    limit = scores["reachable_limit"]
    expected = reachable_limit(run["visible"], run["hidden"].expression, run["hidden"].genes, 0)["limit"]
    assert limit["pcc_mean"] == pytest.approx(expected.mean())
    for name, share in limit["share_reached"].items():
        assert share == pytest.approx(scores["models"][name]["pcc_mean"] / limit["pcc_mean"])
    for _, rows in by_gene.groupby("model"):
        np.testing.assert_array_equal(rows["reachable_limit"], expected)


@pytest.mark.parametrize("n_visible", [None, 0, 19])
def test_no_limit_without_enough_visible_spots(run, n_visible: int | None) -> None:
    visible = None if n_visible is None else run["visible"][:n_visible]
    scores, by_gene = build_scores(**{**run, "visible": visible})
    assert scores["reachable_limit"] is None
    assert by_gene["reachable_limit"].isna().all()
    assert reach(scores) == []


def test_depth_is_removed_where_it_was_measured(run) -> None:
    hidden = replace(run["hidden"], depth=run["hidden"].counts.sum(axis=1) + 1000)
    scores, by_gene = build_scores(**{**run, "hidden": hidden})
    for name, prediction in run["predictions"].items():
        expected = np.nan_to_num(correlate_without_depth(hidden.expression, prediction, hidden.depth))
        np.testing.assert_array_equal(by_gene.loc[by_gene["model"] == name, "pearson_depth_removed"], expected)
        assert scores["models"][name]["pcc_depth_removed"] == pytest.approx(expected.mean())


def test_between_the_spots_no_depth_is_known(scored) -> None:
    assert {row["pcc_depth_removed"] for row in scored[0]["super_resolution"]["models"].values()} == {None}


def test_reach_is_told_in_two_sentences(scored) -> None:
    scores, _ = scored
    scores["models"]["depth_only"] = {"pcc_mean": scores["models"]["spamcaf"]["pcc_mean"] / 4}
    scores["reachable_limit"] = {"pcc_mean": 0.5, "share_reached": {"spamcaf": 0.8}}
    limit, depth = reach(scores)
    assert "limit of the mean PCC 0.500" in limit and "SpaMCAF reaches 80% of it" in limit
    assert "explains 25% of the score" in depth
    del scores["reachable_limit"]  # as an earlier version stored it
    assert reach(scores) == [depth]
    scores["models"]["spamcaf"]["pcc_mean"] = 0.0
    assert reach(scores) == []


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


def _models(**pcc: float) -> dict[str, dict[str, float]]:
    return {name: {"pcc_mean": value} for name, value in pcc.items()}


def test_win() -> None:
    sentence = verdict(_models(spamcaf=0.24, idw=0.1, ridge=0.2), "spamcaf", "hidden spots")
    assert "SpaMCAF beats the best baseline, Ridge on image features, by a factor of 1.20" in sentence


def test_loss() -> None:
    sentence = verdict(_models(spamcaf=0.1, idw=0.2, ridge=0.1), "spamcaf", "hidden spots")
    assert "does NOT beat the best baseline, Inverse distance: it reaches 0.50 of it" in sentence


def test_draw() -> None:
    assert "is level with" in verdict(_models(spamcaf=0.2001, idw=0.2), "spamcaf", "hidden spots")


def test_a_difference_whose_interval_holds_zero_is_a_draw() -> None:
    models = _models(spamcaf=0.24, idw=0.2)
    assert "is level with" in verdict(models, "spamcaf", "hidden spots", [-0.01, 0.09])
    assert "difference +0.010 to +0.070" in verdict(models, "spamcaf", "hidden spots", [0.01, 0.07])


def test_a_part_that_predicts_the_same_is_said_to() -> None:
    assert "alone has 0.220 too." in verdict(_models(spamcaf=0.22, program_gp=0.2201, idw=0.1), "spamcaf", "spots")


def test_own_part_is_no_baseline_but_is_named() -> None:
    sentence = verdict(_models(spamcaf=0.22, program_gp=0.23, released=0.5, idw=0.11), "spamcaf", "hidden spots")
    assert "by a factor of 2.00" in sentence
    assert "alone has 0.230, the network changes that by -0.010" in sentence


def test_no_factor_over_a_baseline_at_or_below_zero() -> None:
    assert "no factor" in verdict(_models(spamcaf=0.2, gene_mean=0.0), "spamcaf", "hidden spots")
    assert "does not beat" in verdict(_models(spamcaf=-0.2, gene_mean=0.0), "spamcaf", "hidden spots")


def test_nothing_to_compare() -> None:
    assert "No verdict" in verdict(_models(idw=0.2), "spamcaf", "hidden spots")


def test_where_released_was_fitted_alone_it_is_judged() -> None:
    sentence = verdict(_models(released=0.1, idw=0.2), "released", "hidden spots")
    assert sentence.startswith("Released network (replica) does NOT beat the best baseline, Inverse distance:")
    assert "Gaussian process" not in sentence


def test_a_peer_that_is_best_is_called_one() -> None:
    models = {name: {"pcc_mean": value} for name, value in (("spamcaf", 0.3), ("idw", 0.1), ("bleep", 0.2))}
    assert "beats the best peer, BLEEP (frozen features), by a factor of 1.50" in verdict(
        models, "spamcaf", "hidden spots"
    )


def test_a_constant_that_wins_mae_is_named(run) -> None:
    median = np.tile(np.median(run["hidden"].expression, axis=0), (len(run["hidden"].expression), 1))
    worse = {name: values + 5 for name, values in run["predictions"].items()}
    scores, _ = build_scores(**run | {"predictions": {**worse, "gene_median": median.astype(np.float32)}})
    assert "The least MAE is that of each gene's median, a constant" in reach(scores)[-1]
    as_before, _ = build_scores(**run)
    assert not any("MAE" in sentence for sentence in reach(as_before))

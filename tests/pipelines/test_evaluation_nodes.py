"""Predictions are scored on the spots that are hidden now, or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import EvaluationSettings, ReportSettings, SplitSettings
from spamcaf.pipelines.evaluation import nodes
from spamcaf.pipelines.evaluation.nodes import join_scores, score_domains, score_predictions
from spamcaf.scoring.gene_sets import choose_gene_sets
from spamcaf.scoring.limits import reachable_limit
from spamcaf.sections.panel import normalise_expression

N_SPOTS, N_GENES = 40, 4
SPOTS = [f"s{i}" for i in range(N_SPOTS)]
HIDDEN = SPOTS[::2]


@pytest.fixture
def expression() -> AnnData:
    rng = np.random.default_rng(0)
    section = AnnData(csr_matrix(rng.poisson(9, (N_SPOTS, N_GENES))), obs=pd.DataFrame(index=SPOTS))
    section.var_names = [f"g{i}" for i in range(N_GENES)]
    section.var["gene_ids"] = section.var_names
    section.obsm["spatial"] = np.column_stack(np.divmod(np.arange(N_SPOTS), 8)) * 200.0
    section.uns["section"] = {"name": "S", "lattice": "square", "mpp": 0.5, "pitch_um": 100.0}
    return normalise_expression(section, pd.DataFrame({"gene": section.var_names}))


@pytest.fixture
def split() -> pd.DataFrame:
    is_hidden = pd.Series(SPOTS).isin(HIDDEN)
    part = np.where(is_hidden, "hidden", "train")
    return pd.DataFrame({"barcode": SPOTS, "part": part, "fold": np.where(is_hidden, -1, 0)})


def recovered(spots: list[str]) -> AnnData:
    obs = pd.DataFrame({"parent_barcode": spots}, index=[f"{spot}_s0" for spot in spots])
    prediction = AnnData(np.random.default_rng(1).random((len(spots), N_GENES), np.float32), obs=obs)
    prediction.uns["spamcaf"] = {"model": "spamcaf", "other_sections": []}
    return prediction


def baselines(spots: list[str]) -> AnnData:
    layers = {"gene_mean": np.random.default_rng(2).random((len(spots), N_GENES))}
    return AnnData(None, pd.DataFrame(index=spots), layers=layers, shape=(len(spots), N_GENES))


def test_predictions_of_the_hidden_spots_are_scored(expression: AnnData, split: pd.DataFrame) -> None:
    arguments = recovered(HIDDEN), baselines(HIDDEN), expression, split, SplitSettings(), 0, EvaluationSettings()
    gene_scores, scores = score_predictions(*arguments)
    assert set(gene_scores["gene"]) == set(expression.var_names)
    assert set(scores["models"]) == {"spamcaf", "gene_mean"}
    expected = reachable_limit(expression[SPOTS[1::2]].X, expression[HIDDEN].X, list(expression.var_names), 0)
    ours = gene_scores[gene_scores["model"] == "spamcaf"]
    np.testing.assert_array_equal(ours["reachable_limit"], expected["limit"])


OTHER_SPOTS = {
    "visible spots": SPOTS[1::2],
    "one spot exchanged": [SPOTS[1], *HIDDEN[1:]],
    "one spot missing": HIDDEN[1:],
    "one spot more": [*HIDDEN, SPOTS[1]],
    "another order": HIDDEN[::-1],
}


@pytest.mark.parametrize("spots", OTHER_SPOTS.values(), ids=OTHER_SPOTS)
@pytest.mark.parametrize("which", ["recovered", "baselines"])
def test_predictions_of_other_spots_are_refused(
    expression: AnnData, split: pd.DataFrame, which: str, spots: list[str]
) -> None:
    """As after a split with another mask: scored by row, every spot would be compared with another one's truth."""
    ours, theirs = (spots, HIDDEN) if which == "recovered" else (HIDDEN, spots)
    with pytest.raises(
        InputError, match=rf"predictions \({which}\) for other spots than those hidden now.*Run training"
    ):
        score_predictions(
            recovered(ours), baselines(theirs), expression, split, SplitSettings(), 0, EvaluationSettings()
        )


def _scored(expression: AnnData, split: pd.DataFrame, domains: dict[str, Any] | None = None, **gene_sets: list[str]):
    settings = EvaluationSettings(gene_sets=gene_sets)
    arguments = recovered(HIDDEN), baselines(HIDDEN), expression, split, SplitSettings(), 0, settings
    gene_scores, scores = score_predictions(*arguments)
    return gene_scores, join_scores(scores, {}, domains or {})


def test_the_lattice_of_the_section_gives_maps_to_compare(expression: AnnData, split: pd.DataFrame) -> None:
    assert _scored(expression, split)[1]["models"]["spamcaf"]["ssim"] is None  # no array indices
    column, row = np.arange(40) % 8, np.arange(40) // 8
    expression.obs["array_col"], expression.obs["array_row"] = row * 2, column  # 8 rows
    every = split.assign(part=["train", *["hidden"] * 39])
    prediction, theirs = recovered(SPOTS[1:]), baselines(SPOTS[1:])
    expression.uns["section"]["lattice"] = "square"
    arguments = prediction, theirs, expression, every, SplitSettings(), 0, EvaluationSettings()
    gene_scores, scores = score_predictions(*arguments)
    assert -1 < scores["models"]["spamcaf"]["ssim"] < 1
    assert gene_scores["ssim"].notna().all()


def test_gene_sets_are_chosen_on_visible_spots_and_added_to_by_the_user(split: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    section = AnnData(csr_matrix(rng.poisson(rng.gamma(2, 5, 60), (N_SPOTS, 60))), obs=pd.DataFrame(index=SPOTS))
    section.var_names = [f"g{i}" for i in range(60)]
    section.var["gene_ids"] = [f"ENSG{i}" for i in range(60)]
    section.obsm["spatial"] = np.column_stack(np.divmod(np.arange(N_SPOTS), 8)) * 200.0
    section.uns["section"] = {"name": "S", "lattice": "square", "mpp": 0.5, "pitch_um": 100.0}
    expression = normalise_expression(section, pd.DataFrame({"gene": section.var_names}))
    prediction, theirs = (AnnData(rng.random((20, 60), np.float32), obs=each.obs) for each in _predictions())
    prediction.uns, theirs.layers["gene_mean"] = recovered(HIDDEN).uns, theirs.X
    settings = EvaluationSettings(gene_sets={"mine": ["g7", "ENSG3", "absent"]})
    arguments = prediction, theirs, expression, split, SplitSettings(), 0, settings
    gene_scores, scores = score_predictions(*arguments)
    visible = expression[SPOTS[1::2]]
    expected = choose_gene_sets(visible.X, visible.obsm["spatial"] * 0.5, "square", list(expression.var_names))
    assert {name: one["genes"] for name, one in scores["gene_sets"].items()} == expected | {"mine": ["g7", "g3"]}
    assert list(expected) == ["variable_50", "expressed_50", "spatial_50"]
    rows = gene_scores[gene_scores["gene"].isin(["g7", "g3"]) & (gene_scores["model"] == "gene_mean")]
    assert scores["gene_sets"]["mine"]["models"]["gene_mean"]["pcc_mean"] == pytest.approx(rows["pearson"].mean())


def _predictions() -> tuple[AnnData, AnnData]:
    return recovered(HIDDEN), baselines(HIDDEN)


def test_absent_genes_of_a_set_are_named(
    expression: AnnData, split: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    _, scores = _scored(expression, split, mine=["g1", "CD3E", "CD79A"], theirs=["CD3E"])
    assert {name: one["genes"] for name, one in scores["gene_sets"].items()} == {"mine": ["g1"]}
    assert "gene set mine: 2 of 3 genes are not in the panel: CD3E, CD79A" in caplog.text
    assert "gene set theirs: 1 of 1 genes are not in the panel: CD3E" in caplog.text


def test_domains_become_a_part_of_the_scores(expression: AnnData, split: pd.DataFrame) -> None:
    assert "domains" not in _scored(expression, split)[1]
    record = {"labels": ["a", "b"], "n_seeds": 2, "expression": {}}
    assert _scored(expression, split, record)[1]["domains"] == record


@pytest.fixture
def layered(expression: AnnData) -> AnnData:
    """Return the section with two layers, which all its genes tell apart, and four spots without a label."""
    layer = np.repeat(["L1", "L2"], N_SPOTS // 2).astype(object)
    expression.X = np.where(layer == "L1", 1.0, 3.0)[:, None] + np.random.default_rng(0).normal(0, 0.1, (40, N_GENES))
    layer[[3, 4, 30, 31]] = None
    expression.obs["label"] = pd.Categorical(layer)
    return expression


def _super_resolved(section: AnnData) -> AnnData:
    """Return the spots and a site beside each, of the same expression but for one that is of the other layer."""
    obs = pd.DataFrame({"parent_barcode": np.repeat(SPOTS, 2), "sub_index": np.tile([0, 1], N_SPOTS)})
    values = np.repeat(np.asarray(section.X), 2, axis=0)
    values[1] = values[-1]  # a site between the spots: it has no label to disagree with
    return AnnData(values, obs=obs.set_axis([f"site{i}" for i in range(2 * N_SPOTS)]))


def test_measured_recovered_and_super_resolved_expression_are_compared_with_labels(layered: AnnData) -> None:
    prediction = recovered(HIDDEN)
    prediction.X = np.asarray(layered[HIDDEN].X)
    settings = EvaluationSettings(domain_seeds=2)
    found = score_domains(layered, prediction, _super_resolved(layered), settings, 0)
    assert found["labels"] == ["L1", "L2"] and found["n_seeds"] == 2
    sizes = {name: (one["n_sites"], one["n_labelled"]) for name, one in found["expression"].items()}
    assert sizes == {"measured": (36, 36), "recovered": (36, 36), "super_resolved": (72, 36)}
    assert all(one["kmeans"]["ari"] == {"mean": 1.0, "sd": 0.0} for one in found["expression"].values())
    prediction.X = prediction.X[::-1]  # every hidden spot predicted as one of the other layer
    wrong = score_domains(layered, prediction, _super_resolved(layered), settings, 0)["expression"]
    assert wrong["measured"] == found["expression"]["measured"]
    assert wrong["recovered"]["kmeans"]["ari"]["mean"] < 0.1


def test_no_labels_or_no_wish_give_an_empty_record(expression: AnnData, layered: AnnData) -> None:
    prediction = recovered(HIDDEN)
    assert score_domains(layered, prediction, layered, EvaluationSettings(domains=False), 0) == {}
    del layered.obs["label"]
    assert score_domains(layered, prediction, layered, EvaluationSettings(), 0) == {}


def test_scores_between_the_spots_are_joined_where_there_are_any(expression: AnnData, split: pd.DataFrame) -> None:
    _, scores = score_predictions(
        recovered(HIDDEN), baselines(HIDDEN), expression, split, SplitSettings(), 0, EvaluationSettings()
    )
    assert join_scores(scores, {}, {}) == scores
    between = {"factor": 4.0, "n_sites": 9, "models": scores["models"], "verdict": "v"}
    assert join_scores(scores, between, {}) == {**scores, "super_resolution": between}


def test_genes_of_the_report_are_asked_for_by_symbol_or_id() -> None:
    var = pd.DataFrame({"gene_ids": ["ENSG1", "ENSG2", "ENSG3"]}, index=["A", "B", "C"])
    asked = nodes._requested(ReportSettings(genes=["ENSG2", "A", "NOPE"]), None, var)
    assert asked == ["B", "A"]

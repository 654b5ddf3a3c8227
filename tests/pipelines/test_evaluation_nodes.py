"""Predictions are scored on the spots that are hidden now, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import SplitSettings
from spamcaf.pipelines.evaluation.nodes import join_scores, score_predictions
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
    prediction.uns["spamcaf"] = json.dumps({"model": "spamcaf", "other_sections": []})
    return prediction


def baselines(spots: list[str]) -> AnnData:
    layers = {"gene_mean": np.random.default_rng(2).random((len(spots), N_GENES))}
    return AnnData(None, pd.DataFrame(index=spots), layers=layers, shape=(len(spots), N_GENES))


def test_predictions_of_the_hidden_spots_are_scored(expression: AnnData, split: pd.DataFrame) -> None:
    arguments = recovered(HIDDEN), baselines(HIDDEN), expression, split, SplitSettings(), 0
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
        score_predictions(recovered(ours), baselines(theirs), expression, split, SplitSettings(), 0)


def test_scores_between_the_spots_are_joined_where_there_are_any(expression: AnnData, split: pd.DataFrame) -> None:
    _, scores = score_predictions(recovered(HIDDEN), baselines(HIDDEN), expression, split, SplitSettings(), 0)
    assert join_scores(scores, {}) == scores
    between = {"factor": 4.0, "n_sites": 9, "models": scores["models"], "verdict": "v"}
    assert join_scores(scores, between) == {**scores, "super_resolution": between}

"""Gene sets are chosen on visible spots alone, and scored as the panel is."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from spamcaf.names import GENE_SETS
from spamcaf.scoring.gene_sets import choose_gene_sets, score_gene_sets
from spamcaf.scoring.metrics import morans_i, summarise
from spamcaf.scoring.scores import describe_gene_sets, format_table

N_GENES = 230
GENES = [f"g{i}" for i in range(N_GENES)]


@pytest.fixture
def visible() -> tuple[np.ndarray, np.ndarray]:
    """Return expression and coordinates: genes 0-49 vary most, 50-99 are highest, 100-149 follow the place."""
    rng = np.random.default_rng(0)
    xy_um = 100.0 * np.stack(np.meshgrid(np.arange(12), np.arange(10)), axis=-1).reshape(-1, 2)
    values = rng.normal(1, 0.1, (120, N_GENES))
    values[:, :50] *= 20
    values[:, 50:100] += 30
    values[:, 100:150] += np.sin(xy_um[:, :1] / 200)
    values[:, 229] = 0.0
    return values.astype(np.float32), xy_um


def test_each_set_holds_the_genes_it_is_named_after(visible) -> None:
    sets = choose_gene_sets(*visible, "square", GENES)
    assert list(sets) == list(GENE_SETS)
    assert set(sets["variable_50"]) == set(GENES[:50])
    assert set(sets["expressed_50"]) == set(GENES[50:100])
    assert set(sets["spatial_50"]) == set(GENES[100:150])
    assert len(sets["variable_200"]) == 200 and sets["variable_200"][:50] == sets["variable_50"]
    assert "g229" not in sets["variable_200"]
    values, xy_um = visible
    assert sets["variable_50"][0] == GENES[int(values.var(axis=0).argmax())]
    assert sets["spatial_50"][0] == GENES[int(np.nanargmax(morans_i(values, xy_um, 4)))]


def test_a_set_that_is_the_panel_and_sets_without_visible_spots_are_left_out(visible) -> None:
    values, xy_um = visible
    assert list(choose_gene_sets(values[:, :200], xy_um, "square", GENES[:200])) == [
        "variable_50",
        "expressed_50",
        "spatial_50",
    ]
    assert choose_gene_sets(values[:, :50], xy_um, "square", GENES[:50]) == {}
    assert choose_gene_sets(values[:0], xy_um[:0], "square", GENES) == {}


def test_scores_are_those_of_the_genes_of_a_set(scored) -> None:
    _, by_gene = scored
    genes = ["g3", "g1", "g20"]
    found = score_gene_sets(by_gene, {"mine": genes})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["mine"]["n_genes"], found["mine"]["genes"]) == (3, genes)
    assert list(found["mine"]["models"]) == ["spamcaf", "idw", "gene_mean"]
    rows = by_gene[(by_gene["model"] == "idw") & by_gene["gene"].isin(genes)]
    assert found["mine"]["models"]["idw"] == summarise(rows)
    assert found["mine"]["models"]["idw"]["pcc_mean"] == pytest.approx(rows["pearson"].mean())


def test_the_table_names_each_set_with_the_best_baseline(scored) -> None:
    scores, by_gene = scored
    assert describe_gene_sets(scores) == []
    scores = scores | {"gene_sets": score_gene_sets(by_gene, {"mine": ["g3", "g1"], "other": ["g2"]})}
    models = scores["gene_sets"]["mine"]["models"]
    (sentence,) = describe_gene_sets(scores)
    assert f"mine {models['spamcaf']['pcc_mean']:.3f} (Inverse distance {models['idw']['pcc_mean']:.3f})" in sentence
    assert "other" in sentence
    assert sentence in format_table(scores).splitlines()


def test_a_set_counts_a_gene_once_per_model() -> None:
    rows = pd.DataFrame({"model": "a", "gene": ["x", "y"], "pearson": [0.2, 0.6], "undefined": False})
    rows = rows.assign(spearman=0.1, mse=1.0, mae=1.0, rmse=1.0, variance_ratio=np.nan)
    assert score_gene_sets(rows, {"s": ["y"]})["s"]["models"]["a"]["pcc_mean"] == 0.6

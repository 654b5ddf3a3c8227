"""Scores of gene sets on a map, beside programs."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spamcaf.reporting.programs import gene_set_scores


@pytest.fixture
def map_() -> AnnData:
    random = np.random.default_rng(0)
    values = random.gamma(2.0, 0.3, (200, 120)).astype(np.float32)
    values[:50, :3] += 2.0
    values[150:, 3:9] += 2.0  # of like mean, elsewhere
    names = [f"G{i}" for i in range(120)]
    return AnnData(values, var=pd.DataFrame({"gene_ids": [f"E{i}" for i in range(120)]}, index=names))


def test_a_set_scores_high_where_its_genes_are_up(map_: AnnData) -> None:
    scores = gene_set_scores(map_, {"T cells/CD8": ["G0", "E1", "G2"], "other": ["G50", "G51"]}, seed=1)
    assert list(scores.columns) == ["score_T cells_CD8", "score_other"]  # a slash is a folder in HDF5
    assert scores["score_T cells_CD8"][:50].mean() > scores["score_T cells_CD8"][50:].mean() + 1
    assert abs(scores["score_other"][:50].mean() - scores["score_other"][50:].mean()) < 0.2
    assert map_.obs.empty


def test_absent_genes_are_named_and_a_set_of_all_genes_is_scored_too(map_: AnnData, caplog) -> None:
    scores = gene_set_scores(map_, {"none": ["NO"], "all": list(map_.var_names)}, seed=1)
    assert list(scores.columns) == ["score_all"]
    assert "the map has no NO" in caplog.text

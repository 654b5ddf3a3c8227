"""Expression is log1p of counts per 10 000, by the depth over all genes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spamcaf.sections.panel import normalise_expression

GENES = ["gene7", "gene2"]


@pytest.fixture
def section(make_section: Callable[..., AnnData]) -> AnnData:
    return make_section()


def test_values_by_hand(section: AnnData) -> None:
    expression = normalise_expression(section, pd.DataFrame({"gene": GENES}))
    counts = section.X.toarray().astype(float)
    expected = np.log1p(counts[:, [7, 2]] / counts.sum(axis=1, keepdims=True) * 10_000)
    assert expression.var_names.tolist() == GENES
    assert expression.obs_names.tolist() == section.obs_names.tolist()
    assert expression.X.dtype == np.float32
    np.testing.assert_allclose(expression.X, expected, rtol=1e-6)
    np.testing.assert_array_equal(expression.obs["depth"], counts.sum(axis=1))
    np.testing.assert_array_equal(expression.layers["counts"].toarray(), counts[:, [7, 2]])
    np.testing.assert_array_equal(expression.obsm["spatial"], section.obsm["spatial"])
    assert expression.var["gene_ids"].tolist() == ["ENSG7", "ENSG2"]


def test_agrees_with_scanpy(section: AnnData) -> None:
    import scanpy as sc

    theirs = section.copy()
    theirs.X = theirs.X.astype(np.float64)
    sc.pp.normalize_total(theirs, target_sum=10_000)
    sc.pp.log1p(theirs)
    ours = normalise_expression(section, pd.DataFrame({"gene": GENES}))
    np.testing.assert_allclose(ours.X, theirs[:, GENES].X.toarray(), rtol=1e-5)


def test_the_section_stays_as_it_was(section: AnnData) -> None:
    before = section.copy()
    normalise_expression(section, pd.DataFrame({"gene": GENES}))
    np.testing.assert_array_equal(section.X.toarray(), before.X.toarray())
    assert list(section.obs) == list(before.obs)

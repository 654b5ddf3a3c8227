"""Genes are matched between sections by id, whatever their symbols and order."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.sections.gene_names import is_shared, own_names, stack_spots, take_genes


def section(symbols: list[str], ids: list[str], n_spots: int = 3) -> AnnData:
    counts = csr_matrix(np.arange(n_spots * len(ids)).reshape(n_spots, -1))
    data = AnnData(counts)
    data.var_names, data.obs_names = symbols, [f"s{i}" for i in range(n_spots)]
    data.var["gene_ids"] = ids
    return data


HOME = section(["A", "B", "C"], ["E1", "E2", "E3"])
OTHER = section(["c", "x", "a"], ["E3", "E9", "E1"])


def test_shared_genes_are_those_that_all_have() -> None:
    assert is_shared(HOME, []).all()
    assert is_shared(HOME, [OTHER]).tolist() == [True, False, True]


def test_genes_are_taken_in_the_order_and_under_the_names_of_the_section() -> None:
    var = HOME.var.iloc[[0, 2]]
    taken = take_genes(OTHER, var)
    assert taken.var_names.tolist() == ["A", "C"]
    assert own_names(OTHER, var) == ["a", "c"]
    np.testing.assert_array_equal(taken.X.toarray(), OTHER.X.toarray()[:, [2, 0]])


def test_a_missing_gene_and_no_common_gene_are_refused() -> None:
    with pytest.raises(InputError, match="1 genes of the panel missing in another section, B first"):
        take_genes(OTHER, HOME.var)
    with pytest.raises(InputError, match="no gene in common"):
        is_shared(HOME, [section(["Q"], ["Q1"])])


def test_spots_of_one_name_in_two_sections_stay_two() -> None:
    stacked = stack_spots([HOME, HOME])
    assert stacked.shape == (6, 3)
    assert stacked.obs_names.is_unique
    assert stacked.var["gene_ids"].tolist() == ["E1", "E2", "E3"]

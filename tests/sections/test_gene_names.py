"""Genes are found by symbol or id in one section, and matched by id between several."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.sections.gene_names import (
    closest,
    find_genes,
    is_shared,
    match_genes,
    named,
    own_names,
    stack_spots,
    take_genes,
)

SYMBOLS = ["ERBB2", "COL1A1", "COL1A2", "TBCE", "TBCE_ENSG5", "HLA_A"]


@pytest.fixture
def var() -> pd.DataFrame:
    ids = [f"ENSG{i}" for i in range(1, 7)]
    return pd.DataFrame({"gene_ids": ids}, index=SYMBOLS)


def test_symbols_and_ids_in_the_order_requested(var: pd.DataFrame) -> None:
    assert find_genes(["ENSG3", "ERBB2", "NOPE", "ENSG99", "COL1A1"], var) == (
        ["COL1A2", "ERBB2", "COL1A1"],
        ["NOPE", "ENSG99"],
    )


def test_a_gene_requested_twice_is_taken_once(var: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert find_genes(["ERBB2", "COL1A1", "ENSG1", "ERBB2", "NOPE", "NOPE"], var) == (["ERBB2", "COL1A1"], ["NOPE"])
    assert "1 genes are requested twice" in caplog.text


def test_a_shared_symbol_means_the_first_and_is_logged(var: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert find_genes(["TBCE"], var) == (["TBCE"], [])
    assert "TBCE is the symbol of several genes: ENSG4 is taken, not ENSG5" in caplog.text
    caplog.clear()
    assert find_genes(["TBCE_ENSG5", "ENSG5", "HLA_A"], var) == (["TBCE_ENSG5", "HLA_A"], [])
    assert "several genes" not in caplog.text


def test_symbols_that_serve_as_ids(var: pd.DataFrame) -> None:
    var["gene_ids"] = var.index
    assert find_genes(SYMBOLS, var) == (SYMBOLS, [])


def test_likely_spellings(var: pd.DataFrame) -> None:
    assert closest("Erbb2", var)[0] == "ERBB2"
    assert set(closest("COL1A3", var)) >= {"COL1A1", "COL1A2"}
    assert closest("XYZ", var) == []
    var["gene_ids"] = [f"ENSG0000014173{i}" for i in range(len(var))]
    assert closest("ENSG00000141733.12", var)[0] == "ENSG00000141733"


def test_long_lists_are_cut() -> None:
    assert named(["A", "B"]) == "A, B"
    assert named([str(i) for i in range(12)], most=3) == "0, 1, 2 and 9 more"


def section(symbols: list[str], ids: list[str], n_spots: int = 3) -> AnnData:
    counts = csr_matrix(np.arange(n_spots * len(ids)).reshape(n_spots, -1))
    data = AnnData(counts)
    data.var_names, data.obs_names = symbols, [f"s{i}" for i in range(n_spots)]
    data.var["gene_ids"] = ids
    return data


FIRST = section(["A", "B", "C"], ["E1", "E2", "E3"])
OTHER = section(["c", "x", "a"], ["E3", "E9", "E1"])


def test_shared_genes_are_those_that_all_have() -> None:
    assert is_shared(FIRST, []).all()
    assert is_shared(FIRST, [OTHER]).tolist() == [True, False, True]


def test_genes_are_taken_in_the_order_and_under_the_names_of_the_section() -> None:
    var = FIRST.var.iloc[[0, 2]]
    taken = take_genes(OTHER, var)
    assert taken.var_names.tolist() == ["A", "C"]
    assert own_names(OTHER, var) == ["a", "c"]
    np.testing.assert_array_equal(taken.X.toarray(), OTHER.X.toarray()[:, [2, 0]])


def test_a_missing_gene_and_no_common_gene_are_refused() -> None:
    with pytest.raises(InputError, match="1 genes of the panel missing in another section, B first"):
        take_genes(OTHER, FIRST.var)
    with pytest.raises(InputError, match="no gene in common"):
        is_shared(FIRST, [section(["Q"], ["Q1"])])


def test_spots_of_one_name_in_two_sections_stay_two() -> None:
    stacked = stack_spots([FIRST, FIRST])
    assert stacked.shape == (6, 3)
    assert stacked.obs_names.is_unique
    assert stacked.var["gene_ids"].tolist() == ["E1", "E2", "E3"]


def test_genes_of_a_reference_match_by_id_whatever_its_version(var: pd.DataFrame) -> None:
    theirs = pd.DataFrame({"gene_ids": ["ENSG2.7", "ENSG9", "ENSG1.12", "ENSG1.13"]}, index=["b", "x", "a", "a2"])
    assert match_genes(theirs, ["ENSG1", "ENSG2.1", "ENSG5"], ["one", "two"]).tolist() == [2, 0, -1]
    other = pd.DataFrame({"gene_ids": ["AC.1", "AC.2"]}, index=["p", "q"])  # no version, but part of the name
    assert match_genes(other, ["AC.2", "AC"], []).tolist() == [1, -1]


def test_genes_of_a_reference_match_by_symbol_where_that_finds_more(var: pd.DataFrame) -> None:
    theirs = pd.DataFrame({"gene_ids": ["ERBB2", "TBCE", "COL1A1"]}, index=["ERBB2", "TBCE", "COL1A1"])
    rows = match_genes(theirs, list(var["gene_ids"]), SYMBOLS[:4])
    assert rows.tolist() == [0, 2, -1, 1, -1, -1]
    assert match_genes(theirs, ["ERBB2", "COL1A1"], []).tolist() == [0, 2]
    one_each = pd.DataFrame({"gene_ids": ["ENSG1", "none"]}, index=["nobody", "COL1A1"])
    assert match_genes(one_each, ["ENSG1", "ENSG2"], SYMBOLS[:2]).tolist() == [0, -1]  # the id, where both find as many

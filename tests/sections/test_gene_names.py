"""Genes are found by symbol or id, in the order asked; an unknown one brings its likely spellings."""

from __future__ import annotations

import logging

import pandas as pd
import pytest

from spamcaf.sections.gene_names import closest, find_genes, named

SYMBOLS = ["ERBB2", "COL1A1", "COL1A2", "TBCE", "TBCE_ENSG5", "HLA_A"]


@pytest.fixture
def var() -> pd.DataFrame:
    ids = [f"ENSG{i}" for i in range(1, 7)]
    return pd.DataFrame({"gene_ids": ids}, index=SYMBOLS)


def test_symbols_and_ids_in_the_order_asked(var: pd.DataFrame) -> None:
    assert find_genes(["ENSG3", "ERBB2", "NOPE", "ENSG99", "COL1A1"], var) == (
        ["COL1A2", "ERBB2", "COL1A1"],
        ["NOPE", "ENSG99"],
    )


def test_a_gene_asked_for_twice_is_taken_once(var: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert find_genes(["ERBB2", "COL1A1", "ENSG1", "ERBB2", "NOPE", "NOPE"], var) == (["ERBB2", "COL1A1"], ["NOPE"])
    assert "1 genes are requested twice" in caplog.text


def test_a_shared_symbol_means_the_first_and_says_so(var: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
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

"""Genes have unique names, known markers, and effects that follow from their driver."""

from __future__ import annotations

import numpy as np

from spamcaf.simulation.counts import N_VISIBLE, SHARES, simulated_genes
from spamcaf.simulation.tissue_map import TUMOUR


def test_names_are_unique_and_ids_look_like_ensembl() -> None:
    table = simulated_genes(2000).table
    assert table.index.is_unique and table["gene_ids"].is_unique
    assert table["gene_ids"].str.fullmatch(r"ENSG\d{11}").all()
    assert {"ERBB2", "COL1A1", "PTPRC", "PLIN1", "KRT14", "MT-CO1", "RPLP0"} <= set(table.index)


def test_effects_are_on_the_latents_of_the_driver() -> None:
    genes = simulated_genes(2000)
    driver = genes.table["driver"].to_numpy()
    by_image, by_hidden = np.abs(genes.effects[:N_VISIBLE]).sum(axis=0), np.abs(genes.effects[N_VISIBLE:]).sum(axis=0)
    np.testing.assert_array_equal(by_image > 0, np.isin(driver, ["visible", "both"]))
    np.testing.assert_array_equal(by_hidden > 0, np.isin(driver, ["hidden", "both"]))
    np.testing.assert_array_equal(genes.abundance == 0, driver == "silent")
    assert set(driver) == set(SHARES)
    assert np.argmax(genes.effects[:, genes.table.index.get_loc("ERBB2")]) == TUMOUR


def test_abundances_span_about_four_decades() -> None:
    abundance = simulated_genes(2000).abundance
    low, high = np.quantile(np.log10(abundance[abundance > 0]), [0.01, 0.99])
    assert 3.5 < high - low < 5.5


def test_a_short_list_holds_every_kind_of_marker() -> None:
    assert {"ERBB2", "COL1A1", "PLIN1", "PTPRC", "KRT5", "MT-CO1", "RPLP0"} <= set(simulated_genes(20).table.index)

"""The gene panel comes from training spots, and what ends scanpy's process never reaches it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from pydantic import ValidationError
from scipy.sparse import csr_matrix

from spamcaf.datasets.other_sections import OtherSections
from spamcaf.datasets.stored import CSVDataset
from spamcaf.errors import InputError
from spamcaf.parameters import PanelSettings, SplitSettings, TileSettings
from spamcaf.pipelines.ingestion.nodes import choose_gene_panel as choose_panel_node
from spamcaf.pipelines.ingestion.nodes import normalise_expression as normalise_node
from spamcaf.pipelines.ingestion.nodes import split_spots
from spamcaf.sections.panel import choose_gene_panel

N_GENES = 60
NOBODY = OtherSections((), Path(), Path())


@pytest.fixture
def section(make_section: Callable[..., AnnData]) -> AnnData:
    return make_section(10, 12, N_GENES)


def with_gene(section: AnnData, gene: int, values: np.ndarray) -> AnnData:
    changed = section.copy()
    dense = changed.X.toarray()
    dense[:, gene] = values
    changed.X = csr_matrix(dense)
    return changed


def test_most_variable_genes_first_with_their_ids(section: AnnData) -> None:
    bursts = np.where(np.arange(section.n_obs) % 10 == 0, 40, 0)
    panel = choose_gene_panel(with_gene(section, 5, bursts), PanelSettings(n_genes=10))
    assert len(panel) == 10
    assert panel["gene"].is_unique
    assert panel["gene"].iloc[0] == "gene5"
    assert set(panel["chosen_by"]) == {"variability"}
    assert panel["gene_ids"].tolist() == section.var.loc[panel["gene"], "gene_ids"].tolist()
    assert panel["mean"].iloc[0] == pytest.approx(bursts.mean())
    assert panel["variance"].iloc[0] == pytest.approx(bursts.var())


def test_genes_asked_for_take_the_place_of_the_least_variable(
    section: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    plain = choose_gene_panel(section, PanelSettings(n_genes=10))["gene"].tolist()
    asked = next(gene for gene in reversed(section.var_names) if gene not in plain)
    settings = PanelSettings(n_genes=10, include=[asked, plain[0], "NOT_A_GENE"])
    panel = choose_gene_panel(section, settings).set_index("gene")
    assert len(panel) == 10
    assert set(panel.index) == {*plain[:9], asked}
    assert panel["chosen_by"].to_dict() == {
        g: "request" if g in settings.include else "variability" for g in panel.index
    }
    assert "NOT_A_GENE" in caplog.text


def test_hidden_spots_change_nothing(section: AnnData) -> None:
    training = section.obs_names[::2]
    bursts = np.where(section.obs_names.isin(training), section.X[:, [5]].toarray().ravel(), 5000)
    ours = choose_gene_panel(section[training], PanelSettings(n_genes=10))
    theirs = choose_gene_panel(with_gene(section, 5, bursts)[training], PanelSettings(n_genes=10))
    pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize("method", ["seurat_v3", "moran"])
def test_counts_of_hidden_spots_change_nothing_in_the_pipeline(section: AnnData, method: str) -> None:
    """The nodes split and choose: whatever is counted at hidden spots, panel, means and variances stay the same."""
    section.uns["section"]["spot_diameter_um"] = 55.0
    settings = PanelSettings.model_validate({"n_genes": 10, "method": method})
    spots = split_spots(section, SplitSettings(), TileSettings(), 1)
    other = section.copy()
    hidden = (spots["part"] == "hidden").to_numpy()
    counts = section.X.toarray()
    counts[hidden] = np.random.default_rng(5).poisson(50, (hidden.sum(), N_GENES))
    other.X = csr_matrix(counts)
    ours = choose_panel_node(section, spots, NOBODY, settings)
    pd.testing.assert_frame_equal(ours, choose_panel_node(other, spots, NOBODY, settings))
    counts[~hidden] = np.random.default_rng(6).poisson(50, ((~hidden).sum(), N_GENES))
    other.X = csr_matrix(counts)
    assert not ours.equals(choose_panel_node(other, spots, NOBODY, settings))


@pytest.mark.parametrize(
    "values",
    [np.zeros, lambda n: np.full(n, 3), lambda n: np.where(np.arange(n) < 4, 90, 0)],
    ids=["never", "constant", "too rare"],
)
def test_genes_that_end_the_process_are_no_candidates(section: AnnData, values: Callable[[int], np.ndarray]) -> None:
    changed = with_gene(section, 0, np.arange(section.n_obs) % 7)
    changed = with_gene(changed, 5, values(section.n_obs).astype(np.int32))
    panel = choose_gene_panel(changed, PanelSettings(n_genes=N_GENES - 1, min_spots=5))
    assert "gene5" not in set(panel["gene"])


def test_stored_zeros_do_not_count_as_expressed(section: AnnData) -> None:
    changed = with_gene(section, 0, np.arange(section.n_obs) % 7)
    stored = changed.X.tocsc()
    stored.data[stored.indptr[5] + 2 : stored.indptr[6]] = 0
    changed.X = stored.tocsr()
    panel = choose_gene_panel(changed, PanelSettings(n_genes=N_GENES - 1, min_spots=5))
    assert "gene5" not in set(panel["gene"])


@pytest.mark.parametrize("method", ["seurat_v3", "moran"])
@pytest.mark.parametrize("n_genes", [N_GENES, 1000])
def test_all_genes_are_taken_with_a_warning_where_fewer_than_asked_can_be_learned(
    section: AnnData, method: str, n_genes: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = PanelSettings.model_validate({"n_genes": n_genes, "method": method, "include": ["gene3"]})
    panel = choose_gene_panel(section, settings)
    assert re.search(rf"59 of 60 genes .*: the panel holds these, not {n_genes} \(panel.n_genes\)", caplog.text)
    assert sorted(panel["gene"]) == sorted(set(section.var_names) - {"gene0"})
    exact = choose_gene_panel(section, settings.model_copy(update={"n_genes": N_GENES - 1}))
    pd.testing.assert_frame_equal(panel, exact)


def test_one_gene_is_no_panel(section: AnnData) -> None:
    with pytest.raises(InputError, match=r"Found: 0 of 60 genes .*panel.min_spots.*at least 2, .*panel.n_genes"):
        choose_gene_panel(section, PanelSettings(n_genes=N_GENES, min_spots=10_000))


@pytest.mark.parametrize("method", ["seurat_v3", "moran"])
def test_names_that_look_like_numbers_are_read_back_as_names(section: AnnData, tmp_path: Path, method: str) -> None:
    """Stored and read back between the nodes: were they numbers, AnnData would take them for positions."""
    section.uns["section"]["spot_diameter_um"] = 55.0
    settings = PanelSettings.model_validate({"n_genes": 10, "method": method})
    names, genes = section.obs_names.tolist(), section.var_names.tolist()
    numbers, ids = [str(i) for i in range(1, len(names) + 1)], [str(i) for i in range(1, N_GENES + 1)]
    split = split_spots(section, SplitSettings(), TileSettings(), 1)
    panel = choose_panel_node(section, split, NOBODY, settings)
    expression = normalise_node(section, panel)
    section.obs_names, section.var_names, section.var["gene_ids"] = numbers, ids, ids
    stored = {name: CSVDataset(filepath=str(tmp_path / name)) for name in ("split.csv", "panel.csv")}
    stored["split.csv"].save(split.assign(barcode=split["barcode"].map(dict(zip(names, numbers, strict=True)))))
    numbered = choose_panel_node(section, stored["split.csv"].load(), NOBODY, settings)
    assert numbered["gene"].tolist() == panel["gene"].map(dict(zip(genes, ids, strict=True))).tolist()
    np.testing.assert_array_equal(numbered[["mean", "variance"]], panel[["mean", "variance"]])
    stored["panel.csv"].save(numbered)
    np.testing.assert_array_equal(normalise_node(section, stored["panel.csv"].load()).X, expression.X)


def test_genes_by_symbol_or_id_are_exactly_the_panel(section: AnnData) -> None:
    settings = PanelSettings(genes=["gene7", "ENSG3", "gene50", "ENSG7"], n_genes=1000, min_spots=10**6)
    panel = choose_gene_panel(section, settings)
    assert panel["gene"].tolist() == ["gene7", "gene3", "gene50"]
    assert panel["gene_ids"].tolist() == ["ENSG7", "ENSG3", "ENSG50"]
    assert set(panel["chosen_by"]) == {"request"}
    np.testing.assert_allclose(panel["variance"], section.X[:, [7, 3, 50]].toarray().var(axis=0))


def test_genes_that_the_section_has_not_are_named_with_likely_ones(section: AnnData) -> None:
    asked = ["gene7", "GENE55X", "ENSG300", *(f"absent{i}" for i in range(6))]
    expected = r"8 of 9 genes of panel.genes are not in the section: GENE55X \(like gene55 .*absent2 and 3 more\."
    with pytest.raises(InputError, match=expected):
        choose_gene_panel(section, PanelSettings(genes=asked))


def test_genes_that_cannot_be_learned_are_named(section: AnnData) -> None:
    never = with_gene(section, 5, np.zeros(section.n_obs, np.int32))
    with pytest.raises(InputError, match=r"2 of 3 genes of panel.genes are absent .*: gene5, gene0\. "):
        choose_gene_panel(never, PanelSettings(genes=["gene5", "gene1", "gene0"]))
    with pytest.raises(InputError, match="1 different gene"):
        choose_gene_panel(section, PanelSettings(genes=["gene1", "ENSG1"]))


def test_include_takes_ids_and_no_more_than_fit(section: AnnData) -> None:
    panel = choose_gene_panel(section, PanelSettings(n_genes=4, include=["ENSG9", "gene9", "gene8"]))
    assert panel["gene"].tolist()[2:] == ["gene9", "gene8"]
    assert panel["chosen_by"].tolist() == ["variability"] * 2 + ["request"] * 2
    with pytest.raises(InputError, match=r"3 genes in panel.include.*at most 2 \(panel.n_genes\)"):
        choose_gene_panel(section, PanelSettings(n_genes=2, include=["gene7", "gene8", "gene9"]))


@pytest.mark.parametrize("genes", [["A", "B"], "A\nB\n", " A, B", "A;B"])
def test_names_may_be_pasted_as_text(genes: list[str] | str) -> None:
    assert PanelSettings.model_validate({"genes": genes}).genes == ["A", "B"]


@pytest.mark.parametrize("settings", [{"genes": ["A"]}, {"genes": ""}, {"method": "cell_ranger"}])
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PanelSettings.model_validate(settings)


@pytest.mark.parametrize("settings", [PanelSettings(), PanelSettings(genes=["gene1", "gene2"])])
def test_no_training_spots(section: AnnData, settings: PanelSettings) -> None:
    with pytest.raises(
        InputError, match="split.protocol=section .* other sections of the same tissue .*other_sections=<name>"
    ):
        choose_gene_panel(section[[]], settings)


def test_empty_training_counts_are_refused(section: AnnData) -> None:
    section.X = csr_matrix(section.shape, dtype=np.int32)
    with pytest.raises(InputError, match="Found: 0 of 60 genes"):
        choose_gene_panel(section, PanelSettings(n_genes=2))

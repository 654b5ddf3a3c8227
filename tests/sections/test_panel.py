"""The gene panel comes from training spots; counts that end scanpy's process are refused; expression is log1p."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.sparse import csr_array, csr_matrix
from scipy.spatial import cKDTree

from spamcaf.datasets.inputs import OtherSections
from spamcaf.datasets.stored import AtomicDataset
from spamcaf.errors import InputError
from spamcaf.parameters import PanelSettings, SplitSettings, TileSettings
from spamcaf.pipelines.ingestion.nodes import choose_gene_panel as choose_panel_node
from spamcaf.pipelines.ingestion.nodes import normalise_expression as normalise_node
from spamcaf.pipelines.ingestion.nodes import split_spots
from spamcaf.sections import panel
from spamcaf.sections.panel import (
    choose_gene_panel,
    choose_program_genes,
    is_varying,
    morans_i,
    most_spatial,
    normalise_expression,
)

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


def test_requested_genes_replace_the_least_variable(section: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    plain = choose_gene_panel(section, PanelSettings(n_genes=10))["gene"].tolist()
    requested = next(gene for gene in reversed(section.var_names) if gene not in plain)
    settings = PanelSettings(n_genes=10, include=[requested, plain[0], "NOT_A_GENE"])
    panel = choose_gene_panel(section, settings).set_index("gene")
    assert len(panel) == 10
    assert set(panel.index) == {*plain[:9], requested}
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
    ours, more = choose_panel_node(section, spots, NOBODY, settings)
    panel, beside = choose_panel_node(other, spots, NOBODY, settings)
    pd.testing.assert_frame_equal(ours, panel)
    pd.testing.assert_frame_equal(more, beside)
    assert len(more) > 10 and not set(more["gene"]) & set(ours["gene"])
    counts[~hidden] = np.random.default_rng(6).poisson(50, ((~hidden).sum(), N_GENES))
    other.X = csr_matrix(counts)
    assert not ours.equals(choose_panel_node(other, spots, NOBODY, settings)[0])


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
def test_all_genes_are_taken_with_a_warning_where_fewer_than_requested_can_be_learned(
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
    panel, more = choose_panel_node(section, split, NOBODY, settings)
    expression = normalise_node(section, panel, more)
    section.obs_names, section.var_names, section.var["gene_ids"] = numbers, ids, ids
    stored = {
        name: AtomicDataset(filepath=str(tmp_path / name), dataset={"type": "pandas.CSVDataset"})
        for name in ("split.csv", "panel.csv", "more.csv")
    }
    stored["split.csv"].save(split.assign(barcode=split["barcode"].map(dict(zip(names, numbers, strict=True)))))
    numbered, others = choose_panel_node(section, stored["split.csv"].load(), NOBODY, settings)
    assert numbered["gene"].tolist() == panel["gene"].map(dict(zip(genes, ids, strict=True))).tolist()
    np.testing.assert_array_equal(numbered[["mean", "variance"]], panel[["mean", "variance"]])
    stored["panel.csv"].save(numbered)
    stored["more.csv"].save(others)
    again = normalise_node(section, stored["panel.csv"].load(), stored["more.csv"].load())
    np.testing.assert_array_equal(again.X, expression.X)
    np.testing.assert_array_equal(again.obsm["program_genes"], expression.obsm["program_genes"])


def test_genes_for_programs_are_the_most_detected_ones_beside_the_panel(section: AnnData) -> None:
    panel = choose_gene_panel(section, PanelSettings(n_genes=10))
    more = choose_program_genes(section, panel, 5)
    detected = pd.Series(np.asarray((section.X > 0).sum(axis=0)).ravel(), index=section.var_names)
    left = detected.drop(["gene0", *panel["gene"]])  # gene0 is constant
    assert detected[more["gene"]].min() >= left.drop(more["gene"]).max()
    assert more["gene_ids"].tolist() == section.var.loc[more["gene"], "gene_ids"].tolist()
    assert len(choose_program_genes(section, panel, 10_000)) == N_GENES - 11  # gene0 is constant
    assert choose_program_genes(section, panel, 0).empty
    expression = normalise_expression(section, panel, more)
    whole = normalise_expression(section, pd.DataFrame({"gene": more["gene"]}))
    np.testing.assert_array_equal(expression.obsm["program_genes"], whole.X)
    assert "program_genes" not in normalise_expression(section, panel, more[:0]).obsm


def test_genes_by_symbol_or_id_are_exactly_the_panel(section: AnnData) -> None:
    settings = PanelSettings(genes=["gene7", "ENSG3", "gene50", "ENSG7"], n_genes=1000, min_spots=10**6)
    panel = choose_gene_panel(section, settings)
    assert panel["gene"].tolist() == ["gene7", "gene3", "gene50"]
    assert panel["gene_ids"].tolist() == ["ENSG7", "ENSG3", "ENSG50"]
    assert set(panel["chosen_by"]) == {"request"}
    np.testing.assert_allclose(panel["variance"], section.X[:, [7, 3, 50]].toarray().var(axis=0))


def test_genes_that_the_section_has_not_are_named_with_likely_ones(section: AnnData) -> None:
    requested = ["gene7", "GENE55X", "ENSG300", *(f"absent{i}" for i in range(6))]
    expected = r"8 of 9 genes of panel.genes are not in the section: GENE55X \(like gene55 .*absent2 and 3 more\."
    with pytest.raises(InputError, match=expected):
        choose_gene_panel(section, PanelSettings(genes=requested))


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


N_SPOTS, N_FEW = 60, 40
LARGEST = 2**31 - 1


def section_of(counts: np.ndarray) -> AnnData:
    n_spots, n_genes = counts.shape
    section = AnnData(csr_matrix(counts.astype(np.int32)))
    section.var = pd.DataFrame({"gene_ids": [f"E{i}" for i in range(n_genes)]}, index=[f"g{i}" for i in range(n_genes)])
    section.obsm["spatial"] = np.column_stack([np.arange(n_spots) % 10, np.arange(n_spots) // 10]) * 100.0
    section.uns["section"] = {"pitch_um": 100.0, "mpp": 1.0}
    return section


def ordinary() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(1, 4, (N_SPOTS, N_FEW)))


def only(n_genes: int) -> np.ndarray:
    return np.where(np.arange(N_FEW) < n_genes, ordinary() + 1, 0)


def one_mean() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.column_stack([rng.permutation(np.arange(N_SPOTS) % 7) for _ in range(N_FEW)])


def nearly_constant() -> np.ndarray:
    counts = np.full((N_SPOTS, N_FEW), LARGEST)
    counts[np.arange(N_FEW), np.arange(N_FEW)] -= 1
    return counts


def huge() -> np.ndarray:
    return np.random.default_rng(0).integers(0, LARGEST, (N_SPOTS, N_FEW))


REFUSED = {
    "all zero (crash)": np.zeros((N_SPOTS, N_FEW)),
    "one value (crash)": np.full((N_SPOTS, N_FEW), 3),
    "constant genes (crash)": np.tile(np.arange(1, N_FEW + 1), (N_SPOTS, 1)),
    "huge and nearly constant (crash)": nearly_constant(),
    "one spot (crash)": ordinary()[:1],
    "no spot": ordinary()[:0],
    "two genes expressed (crash)": only(2),
    "three genes expressed (crash)": only(3),
    "four genes expressed": only(4),
    "two genes (crash)": ordinary()[:, :2],
    "genes of one mean": one_mean(),
    "one count per gene": np.eye(N_SPOTS, N_FEW),
}
RANKED = {
    "ordinary": ordinary(),
    "eight genes expressed": only(8),
    "ten genes": ordinary()[:, :10],
    "half of one mean": np.hstack([one_mean()[:, :20], ordinary()[:, :20]]),
    "huge counts": huge(),
    "one huge gene": np.where(np.arange(N_FEW) == 0, huge(), ordinary()),
    "two spots": ordinary()[:2],
}


@pytest.mark.parametrize("counts", REFUSED.values(), ids=REFUSED)
def test_counts_without_a_ranking_are_refused(counts: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"^Found: .*\. Expected: .*\. Next step: .*\.$"):
        choose_gene_panel(section_of(counts), PanelSettings(n_genes=2, min_spots=1))


@pytest.mark.parametrize("counts", RANKED.values(), ids=RANKED)
def test_counts_with_a_ranking_give_a_whole_panel(counts: np.ndarray) -> None:
    panel = choose_gene_panel(section_of(counts), PanelSettings(n_genes=2, min_spots=1))
    assert len(panel) == 2
    assert panel["gene"].is_unique
    assert (panel["variance"] > 0).all()


@pytest.mark.parametrize("name", ["ordinary", "eight genes expressed", "ten genes", "huge counts"])
def test_all_candidates_or_more(name: str) -> None:
    section = section_of(RANKED[name])
    n_varying = int(is_varying(section).sum())
    panel = choose_gene_panel(section, PanelSettings(n_genes=n_varying, min_spots=1))
    assert set(panel["gene"]) == set(section.var_names[is_varying(section)])
    more = choose_gene_panel(section, PanelSettings(n_genes=n_varying + 1, min_spots=1))
    pd.testing.assert_frame_equal(more, panel)


def test_a_wider_fit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choose_gene_panel(section_of(RANKED["ordinary"]), PanelSettings(n_genes=2, min_spots=1))
    assert "span" not in caplog.text
    choose_gene_panel(section_of(RANKED["half of one mean"]), PanelSettings(n_genes=2, min_spots=1))
    assert "many of one mean: variance fitted on mean with a span of 0.6" in caplog.text


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 30), st.sampled_from([0.02, 0.3, 5.0, 1e8]), st.booleans(), st.data())
def test_any_counts(n_spots: int, n_genes: int, rate: float, same: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    rates = np.full(n_genes, rate) if same else rate * rng.gamma(0.5, 1, n_genes)
    n = data.draw(st.integers(2, n_genes))
    try:
        panel = choose_gene_panel(section_of(rng.poisson(rates, (n_spots, n_genes))), PanelSettings(n_genes=n))
    except InputError:
        return
    assert 2 <= len(panel) <= n
    assert panel["gene"].is_unique


@pytest.fixture
def patterned(make_section: Callable[..., AnnData]) -> AnnData:
    """Return a section in which gene7 and gene8 follow the tissue, and gene9 bursts at single spots."""
    section = make_section(14, 14, N_GENES)
    rng = np.random.default_rng(1)
    x, y = section.obsm["spatial"].T
    counts = section.X.toarray()
    counts[:, 7] = rng.poisson(np.where(x < np.median(x), 2, 30))
    counts[:, 8] = rng.poisson(5 + 10 * (y - y.min()) / np.ptp(y))
    counts[:, 9] = np.where(rng.random(section.n_obs) < 0.1, 300, 0)
    section.X = csr_matrix(counts)
    return section


def brute_force(section: AnnData) -> np.ndarray:
    xy = section.obsm["spatial"]
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    weight = (distance > 0) & (distance < 1.2 * 140)
    counts = section.X.toarray()
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    values = values - values.mean(axis=0)
    scale = len(xy) / weight.sum()
    return scale * np.einsum("ig,ij,jg->g", values, weight.astype(float), values) / (values**2).sum(axis=0)


def full_ranking(section: AnnData, method: str) -> list[str]:
    """All genes that vary, by an implementation of its own: scanpy's, or Moran's I over all pairs of spots."""
    import scanpy as sc

    usable = section[:, 1:].copy()  # gene0 is constant
    if method == "moran":
        score = brute_force(section)[1:]
    else:
        scored = sc.pp.highly_variable_genes(usable, flavor="seurat_v3", n_top_genes=N_GENES - 1, inplace=False)
        score = scored["variances_norm"].to_numpy()
    return usable.var_names[np.argsort(-score)].tolist()


@pytest.mark.parametrize("method", ["seurat_v3", "moran"])
@pytest.mark.parametrize("include", [[], ["gene40", "gene7"]])
@pytest.mark.parametrize("n_genes", [3, 4, 20, 58, 59])
def test_the_panel_is_exactly_the_head_of_the_ranking(
    patterned: AnnData, method: str, include: list[str], n_genes: int
) -> None:
    """Not one gene more or less, and none of the best left out."""
    settings = PanelSettings.model_validate({"n_genes": n_genes, "method": method, "include": include})
    panel = choose_gene_panel(patterned, settings)
    ranked = [gene for gene in full_ranking(patterned, method) if gene not in include]
    assert panel["gene"].tolist() == ranked[: n_genes - len(include)] + include


def test_genes_that_follow_the_tissue_come_first(patterned: AnnData) -> None:
    panel = choose_gene_panel(patterned, PanelSettings(method="moran", n_genes=5, include=["gene9"]))
    assert panel["gene"].tolist()[:2] == ["gene7", "gene8"]
    assert panel["chosen_by"].tolist() == ["spatial"] * 4 + ["request"]
    assert panel["gene"].iloc[4] == "gene9"


@pytest.mark.parametrize("chunk", [7, 512])
def test_the_ranking_is_that_of_morans_i(patterned: AnnData, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "_GENES_PER_CHUNK", chunk)
    training = patterned[np.random.default_rng(3).random(patterned.n_obs) < 0.6].copy()
    candidates = np.arange(N_GENES) % 3 > 0
    expected = np.flatnonzero(candidates)[np.argsort(-brute_force(training)[candidates])]
    assert most_spatial(training, candidates, 12) == [f"gene{i}" for i in expected[:12]]


def test_a_gene_without_variation_comes_last(patterned: AnnData) -> None:
    counts = patterned.X.toarray()
    counts[:, 3] = 0
    patterned.X = csr_matrix(counts)
    ranked = most_spatial(patterned, np.ones(N_GENES, bool), N_GENES)
    assert ranked[-1] == "gene3" and len(set(ranked)) == N_GENES


def test_morans_i_is_scanpys_and_undefined_for_constants(patterned: AnnData) -> None:
    import scanpy as sc

    values = np.log1p(patterned.X.toarray().astype(np.float64))
    values[:, 3] = 7.0
    row, column = cKDTree(patterned.obsm["spatial"]).query_pairs(1.2 * 140, output_type="ndarray").T
    one_way = csr_matrix((np.ones(len(row)), (row, column)), shape=(patterned.n_obs,) * 2)
    graph = one_way + one_way.T
    found = morans_i(values, csr_array(graph * (patterned.n_obs / graph.sum())))
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]
    varying = is_varying(patterned) & (np.arange(N_GENES) != 3)
    np.testing.assert_allclose(found[varying], sc.metrics.morans_i(graph, values[:, varying].T), rtol=1e-9)


def test_depth_is_no_pattern(patterned: AnnData) -> None:
    """All counts double on one half: the expression of the genes that do not follow the tissue stays the same."""
    usable = np.arange(N_GENES) > 0
    before = most_spatial(patterned, usable, 2)
    deeper = patterned.copy()
    deeper.X = csr_matrix(patterned.X.toarray() * np.where(patterned.obsm["spatial"][:, [1]] < 900, 2, 1))
    assert most_spatial(deeper, usable, N_GENES - 1) == most_spatial(patterned, usable, N_GENES - 1)
    assert before == ["gene7", "gene8"]


def test_spots_without_neighbours_cannot_show_a_pattern(patterned: AnnData) -> None:
    apart = (patterned.obs["array_row"] % 4 == 0) & (patterned.obs["array_col"] % 4 == 0)
    with pytest.raises(InputError, match=r"no two of 28 training spots are neighbours.*panel.method=seurat_v3"):
        choose_gene_panel(patterned[apart.to_numpy()], PanelSettings(method="moran", n_genes=5, min_spots=2))


GENES = ["gene7", "gene2"]


@pytest.fixture
def small(make_section: Callable[..., AnnData]) -> AnnData:
    return make_section()


def test_values_by_hand(small: AnnData) -> None:
    expression = normalise_expression(small, pd.DataFrame({"gene": GENES}))
    counts = small.X.toarray().astype(float)
    expected = np.log1p(counts[:, [7, 2]] / counts.sum(axis=1, keepdims=True) * 10_000)
    assert expression.var_names.tolist() == GENES
    assert expression.obs_names.tolist() == small.obs_names.tolist()
    assert expression.X.dtype == np.float32
    np.testing.assert_allclose(expression.X, expected, rtol=1e-6)
    np.testing.assert_array_equal(expression.obs["depth"], counts.sum(axis=1))
    np.testing.assert_array_equal(expression.layers["counts"].toarray(), counts[:, [7, 2]])
    np.testing.assert_array_equal(expression.obsm["spatial"], small.obsm["spatial"])
    assert expression.var["gene_ids"].tolist() == ["ENSG7", "ENSG2"]


def test_agrees_with_scanpy(small: AnnData) -> None:
    import scanpy as sc

    theirs = small.copy()
    theirs.X = theirs.X.astype(np.float64)
    sc.pp.normalize_total(theirs, target_sum=10_000)
    sc.pp.log1p(theirs)
    ours = normalise_expression(small, pd.DataFrame({"gene": GENES}))
    np.testing.assert_allclose(ours.X, theirs[:, GENES].X.toarray(), rtol=1e-5)


def test_the_section_stays_as_it_was(small: AnnData) -> None:
    before = small.copy()
    normalise_expression(small, pd.DataFrame({"gene": GENES}))
    np.testing.assert_array_equal(small.X.toarray(), before.X.toarray())
    assert list(small.obs) == list(before.obs)


@pytest.mark.parametrize("first", ["import torch", "pass"])
def test_choosing_by_variability_leaves_the_threads_of_the_process_alone(first: str) -> None:
    """numba sets them to all cores, where no variable of its own says otherwise."""
    code = f"""
{first}
import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix
from spamcaf.parameters import PanelSettings
from spamcaf.sections.panel import choose_gene_panel, choose_program_genes

rng = np.random.default_rng(0)
section = AnnData(csr_matrix(rng.poisson(rng.gamma(1, 2, (200, 400))).astype(np.int32)))
section.var["gene_ids"] = section.var_names
choose_gene_panel(section, PanelSettings(n_genes=50))
import torch

print(torch.get_num_threads())
"""
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**variables, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1"]

"""Whatever the counts are, seurat_v3 ends in a panel or in an InputError, never in the end of the process.

Each case was tried against scanpy alone in a process of its own: those marked `crash` ended it (signal 11).
"""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import PanelSettings
from spamcaf.sections.panel import choose_gene_panel, is_varying

N_SPOTS, N_GENES = 60, 40
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
    return rng.poisson(rng.gamma(1, 4, (N_SPOTS, N_GENES)))


def only(n_genes: int) -> np.ndarray:
    return np.where(np.arange(N_GENES) < n_genes, ordinary() + 1, 0)


def one_mean() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.column_stack([rng.permutation(np.arange(N_SPOTS) % 7) for _ in range(N_GENES)])


def nearly_constant() -> np.ndarray:
    counts = np.full((N_SPOTS, N_GENES), LARGEST)
    counts[np.arange(N_GENES), np.arange(N_GENES)] -= 1
    return counts


def huge() -> np.ndarray:
    return np.random.default_rng(0).integers(0, LARGEST, (N_SPOTS, N_GENES))


REFUSED = {
    "all zero (crash)": np.zeros((N_SPOTS, N_GENES)),
    "one value (crash)": np.full((N_SPOTS, N_GENES), 3),
    "constant genes (crash)": np.tile(np.arange(1, N_GENES + 1), (N_SPOTS, 1)),
    "huge and nearly constant (crash)": nearly_constant(),
    "one spot (crash)": ordinary()[:1],
    "no spot": ordinary()[:0],
    "two genes expressed (crash)": only(2),
    "three genes expressed (crash)": only(3),
    "four genes expressed": only(4),
    "two genes (crash)": ordinary()[:, :2],
    "genes of one mean": one_mean(),
    "one count per gene": np.eye(N_SPOTS, N_GENES),
}
RANKED = {
    "ordinary": ordinary(),
    "eight genes expressed": only(8),
    "ten genes": ordinary()[:, :10],
    "half of one mean": np.hstack([one_mean()[:, :20], ordinary()[:, :20]]),
    "huge counts": huge(),
    "one huge gene": np.where(np.arange(N_GENES) == 0, huge(), ordinary()),
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


def test_a_wider_fit_is_said(caplog: pytest.LogCaptureFixture) -> None:
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

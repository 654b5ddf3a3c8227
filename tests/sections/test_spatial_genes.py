"""Moran's I over the lattice neighbours among the training spots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import PanelSettings
from spamcaf.sections import panel
from spamcaf.sections.panel import choose_gene_panel, most_spatial

N_GENES = 60


@pytest.fixture
def section(make_section: Callable[..., AnnData]) -> AnnData:
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


def test_genes_that_follow_the_tissue_come_first(section: AnnData) -> None:
    panel = choose_gene_panel(section, PanelSettings(method="moran", n_genes=5, include=["gene9"]))
    assert panel["gene"].tolist()[:2] == ["gene7", "gene8"]
    assert panel["chosen_by"].tolist() == ["spatial"] * 4 + ["request"]
    assert panel["gene"].iloc[4] == "gene9"


@pytest.mark.parametrize("chunk", [7, 512])
def test_the_ranking_is_that_of_morans_i(section: AnnData, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "_GENES_PER_CHUNK", chunk)
    training = section[np.random.default_rng(3).random(section.n_obs) < 0.6].copy()
    candidates = np.arange(N_GENES) % 3 > 0
    expected = np.flatnonzero(candidates)[np.argsort(-brute_force(training)[candidates])]
    assert most_spatial(training, candidates, 12) == [f"gene{i}" for i in expected[:12]]


def test_depth_is_no_pattern(section: AnnData) -> None:
    """All counts double on one half: the expression of the genes that do not follow the tissue stays the same."""
    usable = np.arange(N_GENES) > 0
    before = most_spatial(section, usable, 2)
    deeper = section.copy()
    deeper.X = csr_matrix(section.X.toarray() * np.where(section.obsm["spatial"][:, [1]] < 900, 2, 1))
    assert most_spatial(deeper, usable, N_GENES - 1) == most_spatial(section, usable, N_GENES - 1)
    assert before == ["gene7", "gene8"]


def test_spots_without_neighbours_cannot_show_a_pattern(section: AnnData) -> None:
    apart = (section.obs["array_row"] % 4 == 0) & (section.obs["array_col"] % 4 == 0)
    with pytest.raises(InputError, match=r"no two of 28 training spots are neighbours.*panel.method=seurat_v3"):
        choose_gene_panel(section[apart.to_numpy()], PanelSettings(method="moran", n_genes=5, min_spots=2))

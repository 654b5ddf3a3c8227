"""The gene panel comes from training spots, and what ends scanpy's process never reaches it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import PanelSettings
from spamcaf.sections.panel import choose_gene_panel

N_GENES = 60


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


def test_too_few_candidates_name_the_setting(section: AnnData) -> None:
    with pytest.raises(InputError, match=r"Found: 59 of 60 genes .*panel.n_genes=59"):
        choose_gene_panel(section, PanelSettings(n_genes=N_GENES))


def test_empty_training_counts_are_refused(section: AnnData) -> None:
    section.X = csr_matrix(section.shape, dtype=np.int32)
    with pytest.raises(InputError, match="Found: 0 of 60 genes"):
        choose_gene_panel(section, PanelSettings(n_genes=2))

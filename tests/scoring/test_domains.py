"""Clusters of expression against labels: known truths, on a made-up lattice and on a real one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from spamcaf.scoring import domains
from spamcaf.scoring.domains import LabelledSites, describe_domains, score_domains

REAL = Path(os.environ.get("SPAMCAF_REAL_DATA") or ".") / "visium_spatial" / "151673"
METHODS = ("leiden", "kmeans")
pytest.importorskip("igraph", reason="Leiden needs igraph: pip install -e .[domains]")


def layered(layer: np.ndarray, n_genes: int = 120) -> np.ndarray:
    """Return counts of spots whose layer decides the rate of each gene, as log1p."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 5.0, (layer.max() + 1, n_genes))
    return np.log1p(rng.poisson(rates[layer])).astype(np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat(np.array(["L1", "L2", "WM"], object), [60, 90, 50])


@pytest.fixture
def truth(labels: np.ndarray) -> np.ndarray:
    return layered(pd.Categorical(labels).codes.astype(int))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs real positions: set SPAMCAF_REAL_DATA")
def test_made_up_layers_on_a_real_lattice() -> None:
    """The truth has an index of 1, noise one of 0 within 0.02, by both methods."""
    positions = pd.read_csv(REAL / "tissue_positions_list.csv", header=None)
    row = positions.loc[positions[1] == 1, 2].to_numpy()
    layer = np.digitize(row, np.quantile(row, [0.1, 0.2, 0.45, 0.55, 0.7, 0.85]))  # seven, of unequal width
    labels = np.array([f"L{i}" for i in layer], object)
    expression = layered(layer)
    noise = expression[np.random.default_rng(1).permutation(len(expression))]
    found = score_domains({"truth": LabelledSites(expression, labels), "noise": LabelledSites(noise, labels)}, 5, 0)
    assert len(found["labels"]) == 7 and len(labels) > 3500
    for method in METHODS:
        for index in ("ari", "nmi"):
            assert found["expression"]["truth"][method][index]["mean"] == pytest.approx(1)
        assert found["expression"]["noise"][method]["ari"]["mean"] == pytest.approx(0, abs=0.02)
        assert found["expression"]["noise"][method]["n_clusters"] == 7


def test_mean_and_spread_are_those_of_all_seeds(labels, truth, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    clusterings = [rng.permutation(pd.Categorical(labels).codes) for _ in range(4)] + [pd.Categorical(labels).codes]
    monkeypatch.setitem(domains._CLUSTER, "kmeans", lambda _, n, seeds: clusterings[: len(seeds)])
    found = score_domains({"measured": LabelledSites(truth, labels)}, 5, 0)["expression"]["measured"]["kmeans"]
    for index, score in (("ari", adjusted_rand_score), ("nmi", normalized_mutual_info_score)):
        values = [score(labels, clusters) for clusters in clusterings]
        assert found[index] == {"mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1))}
        assert found[index]["mean"] < 0.5 < max(values)  # not the best one


def test_the_resolution_is_searched_until_the_number_of_clusters_is_that_of_the_labels(labels) -> None:
    rng = np.random.default_rng(0)
    shapeless = rng.normal(size=(200, 30)).astype(np.float32)
    for n_labels in (2, 3, 9):
        names = np.array([f"L{i % n_labels}" for i in range(200)], object)
        found = score_domains({"x": LabelledSites(shapeless, names)}, 3, 0)["expression"]["x"]
        assert found["leiden"]["n_clusters"] == found["kmeans"]["n_clusters"] == n_labels


def test_sites_without_a_label_are_clustered_but_not_compared(labels, truth) -> None:
    some = labels.copy()
    some[::2] = None
    found = score_domains({"x": LabelledSites(truth, some)}, 2, 0)
    assert (found["expression"]["x"]["n_sites"], found["expression"]["x"]["n_labelled"]) == (200, 100)
    assert found["expression"]["x"]["leiden"]["ari"]["mean"] == pytest.approx(1)
    assert found["labels"] == ["L1", "L2", "WM"]


def test_the_same_seed_gives_the_same_record(labels) -> None:
    sites = {"x": LabelledSites(np.random.default_rng(0).normal(size=(200, 30)), labels)}
    assert score_domains(sites, 2, 7) == score_domains(sites, 2, 7) != score_domains(sites, 2, 8)


@pytest.mark.parametrize("names", [["L1"] * 200, [None] * 200])
def test_one_label_is_nothing_to_compare(truth, names: list[str | None]) -> None:
    assert score_domains({"x": LabelledSites(truth, np.array(names, object))}, 2, 0) == {}


def test_constant_expression_is_one_cluster(labels) -> None:
    found = score_domains({"x": LabelledSites(np.ones((200, 30)), labels)}, 2, 0)["expression"]["x"]
    for method in METHODS:
        assert found[method]["ari"] == {"mean": 0.0, "sd": 0.0}
        assert found[method]["n_clusters"] == 1


def test_many_sites_are_sampled_and_labelled_ones_kept(labels, truth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "_MAX_SITES", 120)
    some = labels.copy()
    some[::2] = None
    found = score_domains({"x": LabelledSites(truth, some)}, 2, 0)["expression"]["x"]
    assert (found["n_sites"], found["n_labelled"]) == (120, 100)


def test_without_igraph_there_is_kmeans_and_a_warning(
    labels, truth, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(domains, "find_spec", lambda name: None)
    found = score_domains({"measured": LabelledSites(truth, labels)}, 2, 0)
    assert set(found["expression"]["measured"]) == {"n_sites", "n_labelled", "kmeans"}
    assert "pip install igraph" in caplog.text
    (sentence,) = describe_domains({"domains": found})
    assert "measured k-means 1.000 ± 0.000" in sentence and "Leiden" not in sentence


def test_the_record_is_plain_and_told_in_a_sentence(labels, truth) -> None:
    found = score_domains({"super_resolved": LabelledSites(truth, labels)}, 2, 0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (sentence,) = describe_domains({"domains": found})
    assert "3 labels" in sentence and "2 seeds" in sentence
    assert "super-resolved Leiden 1.000 ± 0.000, k-means 1.000 ± 0.000" in sentence
    assert describe_domains({}) == []


def test_few_sites_are_each_others_neighbours(truth: np.ndarray, labels: np.ndarray) -> None:
    few = np.r_[:4, 60:64]
    found = score_domains({"x": LabelledSites(truth[few], labels[few])}, 2, 0)["expression"]["x"]
    assert found["leiden"]["n_clusters"] >= 1 and found["kmeans"]["ari"]["mean"] == pytest.approx(1)

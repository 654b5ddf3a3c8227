"""Many spots: parts of large matrices give what the whole gives, and features may stay in their store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.histology.features import FeatureKey, Features
from spamcaf.model import data
from spamcaf.model import fit as fitting
from spamcaf.model.data import ImageFeatures, TrainingSection, fit_kernel_pca
from spamcaf.model.depth import ExpressionMeans, expected_expression, log_depth
from spamcaf.model.fit import fit_spamcaf, scored_spots
from spamcaf.model.programs import Programs, learn_programs
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.peers.models import predict
from spamcaf.pipelines.joins import StoredSites
from spamcaf.sections import sites as sites_module
from spamcaf.sections.sites import ROWS, Measured, Sites

FIT = FitSettings(n_programs=3, epochs=1, batch=16, n_gene_processes=5)
NETWORK = NetworkSettings(width=16, heads=2, n_summary=3, image_components=6, n_context=5)
N = ROWS + 500


def stored(measured: Measured) -> Measured:
    """The same spots, with features that are read part by part."""
    windows, n = measured.sites.neighbours, len(measured)
    features = Features((), windows, np.zeros(n, np.int64), FeatureKey("", "", "", "", 0), n)
    rows = np.arange(n)
    return replace(measured, sites=StoredSites(measured.sites.xy_um, (features,), np.zeros(n, np.intp), rows))


def test_a_fit_to_stored_features_is_that_to_features_in_memory(
    visible: Measured, folds: np.ndarray, section: Measured, is_hidden: np.ndarray, cpu: ComputeSettings
) -> None:
    hidden = section.at(is_hidden).sites
    found = []
    for measured in (visible, stored(visible)):
        model = fit_spamcaf(TrainingSection(measured, folds), [], 100.0, FIT, NETWORK, cpu, seed=5).model
        found.append(predict(model, measured, hidden, cpu))
    np.testing.assert_array_equal(found[0].mean, found[1].mean)
    np.testing.assert_array_equal(found[0].sd, found[1].sd)


def test_features_are_read_in_parts(visible: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    read = StoredSites.at

    def at(self: StoredSites, index: sites_module.Index) -> Sites:
        part = read(self, index)
        lengths.append(len(part))
        return part

    monkeypatch.setattr(StoredSites, "at", at)
    monkeypatch.setattr(data, "CHUNK", 16)
    source = stored(visible).sites
    features = ImageFeatures.from_sites(source)
    assert max(lengths) <= 16 and sum(lengths) == len(visible)
    np.testing.assert_array_equal(features.target, visible.sites.target)
    np.testing.assert_array_equal(features.neighbourhood, visible.sites.neighbours.mean(axis=1))


def test_components_in_parts_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    features = ImageFeatures(*rng.normal(size=(2, N, 12)).astype(np.float32), np.zeros((N, 2), np.float32))
    pca = fit_kernel_pca(features)
    pca = replace(pca, axes=pca.axes[:5])
    found = features.project(pca)
    np.testing.assert_allclose(found.neighbourhood, pca(features.neighbourhood), atol=1e-5)
    lost = np.square(features.target).sum(axis=1) - np.square(pca(features.target)).sum(axis=1)
    np.testing.assert_allclose(found.residual_norm2[:, 0], lost, rtol=1e-3, atol=1e-4)


def test_means_and_scores_in_parts_are_those_of_the_whole() -> None:
    rng, n_genes = np.random.default_rng(1), 6
    depth = np.exp(rng.normal(6, 0.4, N))
    rate = rng.dirichlet(np.full(n_genes, 3.0)) / 2
    expression = np.log1p(rng.poisson(rate * depth[:, None]) / depth[:, None] * 1e4).astype(np.float32)
    means = ExpressionMeans.from_spots(expression, depth)
    counts = np.expm1(expression.astype(np.float64)) * depth[:, None] / 1e4
    np.testing.assert_allclose(means.rate, counts.sum(axis=0) / depth.sum(), rtol=1e-9)
    at = np.linspace(np.log(50), np.log(300_000), 64)
    table = expected_expression(means.rate)
    expected = np.column_stack([np.interp(log_depth(depth), at, column) for column in table.T])
    residual = expression - expected - (expression - expected).mean(axis=0)
    np.testing.assert_allclose(means.residuals(expression, depth), residual, atol=1e-9)
    programs = Programs(np.ones(n_genes), np.eye(n_genes)[:2], np.ones(2), n_genes)
    np.testing.assert_allclose(means.scores(programs, expression, depth)[:, 1:], residual[:, :2], atol=1e-9)


def test_noise_of_programs_is_that_of_all_spots() -> None:
    """Of many spots of one pattern and noise, the noise is known: programs keep the pattern alone."""
    rng = np.random.default_rng(2)
    pattern = np.array([1.0, -1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0]) / 2
    own = rng.normal(size=(N, 8)) + 2 * rng.normal(size=(N, 1)) * pattern
    programs, _ = learn_programs(own, [], 4, 8, 0)
    # the largest of the eigenvalues 5, 1, 1, ... against a mixture without covariance of the variances 2 and 1
    assert abs(programs.loadings[0] @ (pattern * programs.gene_scale)) > 0.9
    assert programs.signal_fraction[0] > 0.5


def test_of_many_spots_the_first_folds_are_predicted_out_of_fold() -> None:
    few, many = np.arange(20_000) % 5, np.arange(20_001) % 10
    assert scored_spots(few).all()
    assert np.unique(many[scored_spots(many)]).tolist() == [0, 1, 2]  # 2001 of the first, 2000 of the others
    assert scored_spots(many).sum() == np.isin(many, [0, 1, 2]).sum()


@pytest.mark.parametrize("max_exact", [1, 5000])
def test_noise_learned_from_one_fold_is_close_to_that_from_all(
    visible: Measured, folds: np.ndarray, cpu: ComputeSettings, monkeypatch: pytest.MonkeyPatch, max_exact: int
) -> None:
    settings = FIT.model_copy(update={"use_network": False, "max_exact_spots": max_exact})
    whole = fit_spamcaf(TrainingSection(visible, folds), [], 100.0, settings, NETWORK, cpu, seed=5).model
    monkeypatch.setattr(fitting, "MAX_SCORED_SPOTS", 1)
    monkeypatch.setattr(fitting, "MIN_SCORED_SPOTS", 1)
    one = fit_spamcaf(TrainingSection(visible, folds), [], 100.0, settings, NETWORK, cpu, seed=5).model
    a, b = (np.sqrt(m.within_section.stacking.gene_noise) for m in (whole, one))
    assert not np.array_equal(a, b)
    assert np.corrcoef(a, b)[0, 1] > 0.85  # of a third of 61 spots
    assert b.mean() == pytest.approx(a.mean(), rel=0.1)

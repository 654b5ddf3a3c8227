"""Several sections side by side: each centred by itself, and each of use to the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spamcaf.errors import InputError
from spamcaf.model.data import (
    FeaturePCA,
    PooledSections,
    ReferenceCounts,
    TrainingSection,
    nearest,
    neighbours_leave_one_out,
    neighbours_same_section,
    select_visible,
)
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.fitted import SpamcafModel
from spamcaf.model.programs import learn_programs
from spamcaf.model.training import mean_gene_pearson
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.peers.models import predict
from spamcaf.sections.sites import Measured

PITCH_UM = 100.0
FIT = FitSettings(n_programs=4, epochs=6, batch=16)
NETWORK = NetworkSettings(width=16, heads=2, dropout=0.1, n_summary=3, image_components=6, n_context=5)


def stained(part: TrainingSection, stain: float, level: float) -> TrainingSection:
    """The same section, scanned and counted otherwise: all features and all expression shifted."""
    measured = part.measured
    sites = replace(measured.sites, target=measured.sites.target + stain, neighbours=measured.sites.neighbours + stain)
    return TrainingSection(replace(measured, sites=sites, expression=measured.expression + level), part.folds)


def test_every_section_is_centred_by_itself(pool_of_three: PooledSections) -> None:
    programs, _ = learn_programs(pool_of_three.weighted_residuals(0), [], 3, 40, 0)
    assert np.unique(pool_of_three.section).tolist() == [0, 1, 2]
    for number in range(3):
        rows = pool_of_three.section == number
        np.testing.assert_allclose(pool_of_three.centred()[rows].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(pool_of_three.scores(programs)[rows].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(pool_of_three.image_features.target[rows].mean(axis=0), 0, atol=1e-5)


def test_a_reference_s_counts_are_weighted_as_those_of_a_section(visible: Measured, folds: np.ndarray) -> None:
    pool = PooledSections.from_sections(TrainingSection(visible, folds))
    reference = ReferenceCounts("atlas", visible.all_expression, visible.depth)
    np.testing.assert_allclose(reference.weighted_residuals(), pool.weighted_residuals(0))
    assert np.ptp(visible.depth) > 0


def test_a_section_that_was_not_measured_has_no_spots(others: list[TrainingSection]) -> None:
    assert np.unique(PooledSections.from_sections(None, others).section).tolist() == [1, 2]
    with pytest.raises(InputError, match="no measured section"):
        PooledSections.from_sections(None)


@pytest.fixture(scope="module")
def pooled(visible: Measured, folds: np.ndarray, others: list[TrainingSection], cpu: ComputeSettings) -> SpamcafModel:
    return fit_spamcaf(TrainingSection(visible, folds), others, PITCH_UM, FIT, NETWORK, cpu, seed=5).model


def test_other_sections_help(
    pooled: SpamcafModel,
    section: Measured,
    visible: Measured,
    folds: np.ndarray,
    is_hidden: np.ndarray,
    cpu: ComputeSettings,
) -> None:
    alone = fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, FIT, NETWORK, cpu, seed=5).model
    hidden = section.at(is_hidden)
    scores = [
        mean_gene_pearson(hidden.expression, predict(m, visible, hidden.sites, cpu).mean) for m in (pooled, alone)
    ]
    assert scores[0] > scores[1]


def test_stain_and_depth_of_whole_sections_do_not_matter(
    pooled: SpamcafModel,
    visible: Measured,
    folds: np.ndarray,
    others: list[TrainingSection],
    section: Measured,
    cpu: ComputeSettings,
) -> None:
    changed = [stained(others[0], 3.0, 0.5), stained(others[1], -2.0, 0.0)]
    model = fit_spamcaf(TrainingSection(visible, folds), changed, PITCH_UM, FIT, NETWORK, cpu, seed=5).model
    for context in (visible, None):
        one, other = (predict(m, context, section.sites, cpu).mean for m in (pooled, model))
        # without measurements the sections' mean levels are all that is known of the level
        np.testing.assert_allclose(one - one.mean(axis=0), other - other.mean(axis=0), atol=0.02)


def test_a_model_of_other_sections_alone_predicts_with_and_without_measurements(
    others: list[TrainingSection], section: Measured, visible: Measured, is_hidden: np.ndarray, cpu: ComputeSettings
) -> None:
    model = fit_spamcaf(None, others, PITCH_UM, FIT, NETWORK, cpu, seed=5).model
    hidden = section.at(is_hidden)
    alone = mean_gene_pearson(hidden.expression, predict(model, None, hidden.sites, cpu).mean)
    informed = mean_gene_pearson(hidden.expression, predict(model, visible, hidden.sites, cpu).mean)
    assert informed > alone > 0.05
    again = SpamcafModel.from_tensors(model.to_tensors(), model.metadata())
    np.testing.assert_array_equal(
        predict(again, visible, hidden.sites, cpu).mean, predict(model, visible, hidden.sites, cpu).mean
    )


def test_folds_may_be_whole_sections(others: list[TrainingSection], section: Measured, cpu: ComputeSettings) -> None:
    by_section = [TrainingSection(other.measured, np.full(len(other.measured), i)) for i, other in enumerate(others)]
    model = fit_spamcaf(None, by_section, PITCH_UM, FIT, NETWORK, cpu, seed=5).model
    assert np.isfinite(predict(model, None, section.sites, cpu).mean).all()


def test_components_are_centred_ordered_and_share_one_scale() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 10)) * np.logspace(0, -3, 10) + 4).astype(np.float32)
    pca = FeaturePCA.fit(features, 5)
    components = pca(features)
    variance = components.var(axis=0, ddof=1)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-4)
    assert np.all(np.diff(variance) < 0)
    assert np.isclose(variance.mean(), 1, rtol=1e-3)
    # One scale: the ratio of variances is still that of the features' own directions.
    assert variance[4] / variance[0] < 1e-2


def test_windows_are_projected_like_their_tiles() -> None:
    features = np.random.default_rng(0).normal(size=(6, 9, 8)).astype(np.float32)
    pca = FeaturePCA.fit(features.reshape(-1, 8), 3)
    np.testing.assert_allclose(pca(features)[:, 4], pca(features[:, 4]), atol=1e-6)


def test_no_more_components_than_the_data_have() -> None:
    features = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    assert FeaturePCA.fit(features, 64)(features).shape == (4, 4)


LINE_UM = np.stack([np.arange(6) * 100.0, np.zeros(6)], axis=1)


def test_nearest_come_first() -> None:
    found = nearest(np.array([[130.0, 0.0]]), LINE_UM, 3)
    assert found.tolist() == [[1, 2, 0]]


def test_nearest_are_no_more_than_there_are() -> None:
    assert nearest(LINE_UM[:2], LINE_UM[:1], 5).tolist() == [[0], [0]]


def test_a_spot_is_never_its_own_neighbour() -> None:
    found = neighbours_leave_one_out(LINE_UM, np.array([0, 1, 3, 4]), 2)
    assert all(spot not in row for spot, row in enumerate(found.tolist()))
    assert found[1].tolist() == [0, 3]
    assert sorted(found[2].tolist()) == [1, 3]


def test_spots_at_one_place_are_not_confused() -> None:
    twins = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    found = neighbours_leave_one_out(twins, np.arange(4), 2)
    assert all(spot not in row for spot, row in enumerate(found.tolist()))


def test_neighbours_are_of_ones_own_section_even_where_others_are_nearer() -> None:
    section = np.array([0, 1, 0, 1, 0, 0])
    index, is_near = neighbours_same_section(LINE_UM, section, np.arange(6), 3)
    assert index[0].tolist() == [2, 4, 5]
    assert is_near[0].all()
    assert index[1][is_near[1]].tolist() == [3]


def test_hidden_candidates_are_passed_over() -> None:
    candidates = torch.tensor([[3, 1, 2, 0], [0, 2, 1, 3]])
    is_visible = torch.tensor([True, False, True, False])
    index, seen = select_visible(candidates, is_visible[candidates], 3)
    assert index[:, :2].tolist() == [[2, 0], [0, 2]]
    assert seen.tolist() == [[True, True, False]] * 2

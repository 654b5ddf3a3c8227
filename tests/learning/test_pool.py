"""Several sections side by side: each centred by itself, and each of use to the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.model.data import PooledSections, TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.fitted import SpamcafModel
from spamcaf.model.predict import predict
from spamcaf.model.training import mean_gene_pearson
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.sections.sites import Measured

PITCH_UM = 100.0
FIT = FitSettings(n_programs=4, epochs=6, batch=16)
NETWORK = NetworkSettings(width=16, heads=2, dropout=0.1, n_summary=3, image_components=6, n_context=5)


def stained(lot: TrainingSection, stain: float, level: float) -> TrainingSection:
    """The same section, scanned and counted otherwise: all features and all expression shifted."""
    measured = lot.measured
    sites = replace(measured.sites, target=measured.sites.target + stain, neighbours=measured.sites.neighbours + stain)
    return TrainingSection(replace(measured, sites=sites, expression=measured.expression + level), lot.folds)


def test_every_section_is_centred_by_itself(pool_of_three: PooledSections) -> None:
    assert np.unique(pool_of_three.section).tolist() == [0, 1, 2]
    for number in range(3):
        rows = pool_of_three.section == number
        np.testing.assert_allclose(pool_of_three.expression[rows].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(pool_of_three.image_features.target[rows].mean(axis=0), 0, atol=1e-5)


def test_a_section_that_was_not_measured_has_no_spots(others: list[TrainingSection]) -> None:
    assert np.unique(PooledSections.of(None, others).section).tolist() == [1, 2]
    with pytest.raises(InputError, match="no measured section"):
        PooledSections.of(None)


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
    drop_context = mean_gene_pearson(hidden.expression, predict(model, None, hidden.sites, cpu).mean)
    informed = mean_gene_pearson(hidden.expression, predict(model, visible, hidden.sites, cpu).mean)
    assert informed > drop_context > 0.05
    again = SpamcafModel.from_tensors(model.to_tensors(), model.metadata())
    np.testing.assert_array_equal(
        predict(again, visible, hidden.sites, cpu).mean, predict(model, visible, hidden.sites, cpu).mean
    )


def test_folds_may_be_whole_sections(others: list[TrainingSection], section: Measured, cpu: ComputeSettings) -> None:
    by_section = [TrainingSection(lot.measured, np.full(len(lot.measured), i)) for i, lot in enumerate(others)]
    model = fit_spamcaf(None, by_section, PITCH_UM, FIT, NETWORK, cpu, seed=5).model
    assert np.isfinite(predict(model, None, section.sites, cpu).mean).all()

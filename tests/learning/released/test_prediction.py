from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.model import released as released_module
from spamcaf.model.data import TrainingSection
from spamcaf.model.predict import predict
from spamcaf.model.released import FittedReleased, fit_released
from spamcaf.model.training import mean_gene_pearson
from spamcaf.parameters import ComputeSettings, ReleasedSettings
from spamcaf.sections.sites import Measured


def test_it_predicts_a_mean_and_nothing_else(
    released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings
) -> None:
    found = predict(released.model, None, seen_whole.sites, cpu)
    assert found.mean.shape == seen_whole.expression.shape
    assert found.mean.dtype == np.float32
    assert found.mean.min() >= 0
    assert found.sd is None
    assert found.gp is None


def test_it_learns_what_the_picture_shows(
    target_section: TrainingSection, seen_whole: Measured, is_hidden: np.ndarray, cpu: ComputeSettings
) -> None:
    model = fit_released(target_section, ReleasedSettings(epochs=30, chunk=31), cpu, seed=5).model
    hidden = seen_whole.at(is_hidden)
    assert mean_gene_pearson(hidden.expression, predict(model, None, hidden.sites, cpu).mean) > 0.25


def test_hidden_expression_is_never_seen(
    released: FittedReleased, seen_whole: Measured, is_hidden: np.ndarray, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    expression = seen_whole.expression.copy()
    expression[is_hidden] = 99.0
    changed = replace(seen_whole, expression=expression)
    again = fit_released(TrainingSection(changed.at(~is_hidden), folds), released.model.settings, cpu, seed=5)
    hidden = seen_whole.at(is_hidden).sites
    before = predict(released.model, seen_whole.at(~is_hidden), hidden, cpu).mean
    np.testing.assert_array_equal(predict(again.model, changed.at(~is_hidden), hidden, cpu).mean, before)


def test_measured_spots_around_and_places_change_nothing(
    released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings
) -> None:
    moved = replace(seen_whole.sites, xy_um=seen_whole.sites.xy_um[::-1] * 3)
    with_context = predict(released.model, seen_whole, moved, cpu).mean
    np.testing.assert_array_equal(with_context, predict(released.model, None, seen_whole.sites, cpu).mean)


def test_blocks_change_nothing(
    released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(released.model, None, seen_whole.sites, cpu).mean
    monkeypatch.setattr(released_module, "CHUNK", 50)
    np.testing.assert_allclose(predict(released.model, None, seen_whole.sites, cpu).mean, whole, atol=1e-5)


def test_no_sites_no_rows(released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings) -> None:
    assert predict(released.model, None, seen_whole.sites.at(slice(0, 0)), cpu).mean.shape == (0, 40)


def test_other_features_are_refused(released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings) -> None:
    sites = seen_whole.sites
    with pytest.raises(InputError, match="shrunk to one tile"):
        predict(released.model, None, replace(sites, whole=None), cpu)
    fewer = replace(sites, target=sites.target[:, 1:], whole=sites.whole[:, 1:])
    with pytest.raises(InputError, match="11 features per tile"):
        predict(released.model, None, fewer, cpu)

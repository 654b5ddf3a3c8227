from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from spamcaf.compute import computing
from spamcaf.errors import InputError
from spamcaf.model.data import SectionMeans, TrainingSection
from spamcaf.model.fit import Fitted, fit_spamcaf
from spamcaf.model.fitted import SpamcafModel
from spamcaf.model.predict import _Ensemble
from spamcaf.model.training import mean_gene_pearson
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.peers.models import predict
from spamcaf.sections.sites import Measured

PITCH_UM = 100.0


def _refit(fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings, **fit: object) -> Fitted:
    settings = FitSettings(**fitted.model.fit.model_dump() | fit)
    return fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, settings, fitted.model.network, cpu, seed=5)


def test_the_log_has_a_row_per_fold_and_epoch(fitted: Fitted) -> None:
    epochs = fitted.model.fit.epochs
    assert [(row["fold"], row["epoch"]) for row in fitted.log] == [(f, e) for f in range(3) for e in range(epochs)]
    assert set(fitted.log[0]) == {"fold", "epoch", "loss", "l1", "l2", "l3", "l4", "validation_pcc"}


def test_training_lowers_every_loss(fitted: Fitted) -> None:
    for fold in range(3):
        rows = [row for row in fitted.log if row["fold"] == fold]
        assert all(rows[-1][name] < rows[0][name] for name in ("loss", "l1", "l2", "l3", "l4"))


def test_the_same_seed_gives_the_same_weights_and_leaves_randomness_alone(
    fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = _refit(fitted, visible, folds, cpu)
    torch.testing.assert_close(torch.rand(3), expected)
    for name, tensor in fitted.model.to_tensors().items():
        np.testing.assert_array_equal(again.model.to_tensors()[name], tensor, err_msg=name)


def test_a_fold_that_diverges_keeps_its_last_good_weights(
    fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    wild = FitSettings(**fitted.model.fit.model_dump() | {"learning_rate": 1e30, "epochs": 6})
    found = fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, wild, fitted.model.network, cpu, seed=5)
    assert sum("not finite" in line for line in caplog.messages) == 3
    assert len(found.log) < 3 * 6
    assert all(np.isfinite(tensor).all() for tensor in found.model.to_tensors().values())


def test_a_useless_network_gets_no_weight(
    fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    untrained = _refit(fitted, visible, folds, cpu, learning_rate=1e-9, epochs=1)
    assert untrained.model.within_section.stacking.network_weight[1:3].max() < 0.1  # of the two patterns that there are


def test_half_precision_learns_too(fitted: Fitted, visible: Measured, folds: np.ndarray) -> None:
    half = ComputeSettings(device="cpu", precision="bf16", threads=1)
    model = _refit(fitted, visible, folds, half, epochs=3).model
    found = predict(model, visible, visible.sites, half).mean
    full = predict(model, visible, visible.sites, half.model_copy(update={"precision": "float32"})).mean
    np.testing.assert_allclose(found, full, atol=0.1)


def test_a_handful_of_spots_is_enough_to_run(visible: Measured, cpu: ComputeSettings) -> None:
    few = visible.at(slice(0, 10))
    target_section = TrainingSection(few, np.arange(10) % 5)
    model = fit_spamcaf(target_section, [], PITCH_UM, FitSettings(epochs=2), NetworkSettings(), cpu, seed=0).model
    for context in (few, None):
        found = predict(model, context, visible.sites, cpu)
        assert np.isfinite(found.mean).all()
        assert (found.sd > 0).any()


def test_weights_and_progress_are_logged(
    fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    brief = FitSettings(n_programs=2, epochs=1, batch=64)
    fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, brief, fitted.model.network, cpu, seed=0)
    assert sum("network weights" in line for line in caplog.messages) == 2
    assert sum(line.startswith("fold ") for line in caplog.messages) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, f: (m, f[1:]), "a fold per spot"),
        (lambda m, f: (m, np.zeros_like(f)), "at least 2 folds"),
        (lambda m, f: (replace(m, expression=m.expression * np.nan), f), "NaN or Inf in expression"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    change: object, message: str, visible: Measured, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    measured, parts = change(visible, folds)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        fit_spamcaf(TrainingSection(measured, parts), [], PITCH_UM, FitSettings(), NetworkSettings(), cpu, seed=0)


def test_a_constant_gene_counts_as_zero() -> None:
    truth = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    assert mean_gene_pearson(truth, truth) == pytest.approx(0.5)


def test_without_a_network_the_gaussian_process_predicts_alone(
    fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    alone = _refit(fitted, visible, folds, cpu, use_network=False)
    assert alone.log == [] and alone.model.networks == ()
    assert (
        not alone.model.within_section.stacking.network_weight.any()
        and not alone.model.new_section.stacking.network_weight.any()
    )
    stored = SpamcafModel.from_tensors(alone.model.to_tensors(), alone.model.metadata())
    for context in (visible, None):
        found, beside = predict(stored, context, visible.sites, cpu), predict(fitted.model, context, visible.sites, cpu)
        np.testing.assert_array_equal(found.mean, found.gp)
        np.testing.assert_array_equal(found.gp, beside.gp)
        assert (found.sd > 0).all()


@pytest.mark.parametrize("change", [{"one_token": True}, {"n_context": 0}])
def test_parts_can_be_left_out_to_compare(
    change: dict[str, object], fitted: Fitted, visible: Measured, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    network = fitted.model.network.model_copy(update=change)
    fit = fitted.model.fit.model_copy(update={"epochs": 2})
    model = fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, fit, network, cpu, seed=5).model
    stored = SpamcafModel.from_tensors(model.to_tensors(), model.metadata())
    for context in (visible, None):
        found = predict(stored, context, visible.sites, cpu).mean
        np.testing.assert_array_equal(found, predict(model, context, visible.sites, cpu).mean)
        assert np.isfinite(found).all()


def test_without_context_the_networks_see_no_expression(
    visible: Measured, folds: np.ndarray, cpu: ComputeSettings
) -> None:
    network = NetworkSettings(width=16, heads=2, image_components=6, n_context=0)
    fit = FitSettings(n_programs=3, epochs=2)
    model = fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, fit, network, cpu, seed=5).model
    other = replace(visible, expression=visible.expression[::-1].copy())
    with computing(cpu) as machine:
        scores = [
            ensemble.scores(visible.sites, ensemble.measured_spots(context))
            for context in (visible, other)
            for ensemble in [_Ensemble.of_model(model, machine, SectionMeans.from_spots(context))]
        ]
    np.testing.assert_array_equal(*scores)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spamcaf.errors import InputError
from spamcaf.model import released
from spamcaf.model.data import TrainingSection
from spamcaf.model.predict import predict
from spamcaf.model.released import FittedReleased, ReleasedNetwork, fit_released
from spamcaf.parameters import ComputeSettings, ReleasedSettings
from spamcaf.sections.sites import Measured


def _assert_same_weights(a: FittedReleased, b: FittedReleased) -> None:
    for name, tensor in a.model.to_tensors().items():
        np.testing.assert_array_equal(b.model.to_tensors()[name], tensor, err_msg=name)


def test_the_log_has_a_row_per_epoch_and_the_loss_falls(released: FittedReleased) -> None:
    assert [(row["fold"], row["epoch"]) for row in released.log] == [(0, epoch) for epoch in range(4)]
    assert set(released.log[0]) == {"fold", "epoch", "loss"}
    assert released.log[-1]["loss"] < released.log[0]["loss"]


def test_the_same_seed_gives_the_same_weights_and_leaves_randomness_alone(
    released: FittedReleased, target_section: TrainingSection, cpu: ComputeSettings
) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = fit_released(target_section, released.model.settings, cpu, seed=5)
    torch.testing.assert_close(torch.rand(3), expected)
    _assert_same_weights(again, released)


def test_another_seed_gives_others(
    released: FittedReleased, target_section: TrainingSection, cpu: ComputeSettings
) -> None:
    brief = ReleasedSettings(epochs=1)
    one, two = (fit_released(target_section, brief, cpu, seed=seed).model.to_tensors() for seed in (5, 6))
    assert not np.array_equal(one["genes.0.weight"], two["genes.0.weight"])


def test_every_epoch_sees_the_same_chunks_in_file_order(
    target_section: TrainingSection, cpu: ComputeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    class Watched(ReleasedNetwork):
        def forward(self, target: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
            seen.append(target.numpy().copy())
            return super().forward(target, whole)

    monkeypatch.setattr(released, "ReleasedNetwork", Watched)
    fit_released(target_section, ReleasedSettings(epochs=2, chunk=20), cpu, seed=0)
    target = target_section.measured.sites.target
    assert len(target) == 61
    assert [len(rows) for rows in seen] == 2 * [20, 20, 19, 2]
    for epoch in (seen[:4], seen[4:]):
        np.testing.assert_array_equal(np.concatenate(epoch), target)


def test_the_rate_is_that_of_the_schedule(
    target_section: TrainingSection, cpu: ComputeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []

    class Watched(torch.optim.Adam):
        def step(self, *_: object) -> None:
            used.append(self.param_groups[0]["lr"])

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    fit_released(target_section, ReleasedSettings(epochs=4, chunk=31, warmup_epochs=2), cpu, seed=0)
    np.testing.assert_allclose(used, np.repeat([5e-4, 1e-3, 1e-3, 5e-4], 2))


def test_folds_change_nothing(released: FittedReleased, target_section: TrainingSection, cpu: ComputeSettings) -> None:
    other = replace(target_section, folds=target_section.folds[::-1].copy())
    _assert_same_weights(fit_released(other, released.model.settings, cpu, seed=5), released)


@pytest.mark.parametrize("epochs", [1, 6])
def test_a_fit_that_diverges_keeps_its_last_good_weights(
    target_section: TrainingSection, cpu: ComputeSettings, epochs: int
) -> None:
    told: list[str] = []
    found = fit_released(
        target_section, ReleasedSettings(epochs=epochs, learning_rate=1e38), cpu, seed=0, log=told.append
    )
    assert sum("not finite" in line for line in told) == 1
    assert len(found.log) < epochs
    assert all(np.isfinite(tensor).all() for tensor in found.model.to_tensors().values())


def test_half_precision_is_close(target_section: TrainingSection) -> None:
    half = ComputeSettings(device="cpu", precision="bf16", threads=1)
    model = fit_released(target_section, ReleasedSettings(epochs=2), half, seed=0).model
    assert {tensor.dtype for tensor in model.to_tensors().values()} == {np.dtype(np.float32)}
    full = half.model_copy(update={"precision": "float32"})
    means = [predict(model, None, target_section.measured.sites, compute).mean for compute in (half, full)]
    np.testing.assert_allclose(*means, atol=0.1)


def test_progress_is_told_about_twenty_times(target_section: TrainingSection, cpu: ComputeSettings) -> None:
    told: list[str] = []
    few = TrainingSection(target_section.measured.at(slice(0, 3)), target_section.folds[:3])
    fit_released(few, ReleasedSettings(epochs=41), cpu, seed=0, log=told.append)
    assert len(told) == 20
    assert "epoch 2 of 41" in told[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: replace(m, sites=replace(m.sites, whole=None)), "fit.model=released"),
        (lambda m: replace(m, sites=replace(m.sites, whole=m.sites.whole * np.nan)), "NaN or Inf in the shrunk"),
        (lambda m: m.at(slice(0, 1)), "at least 2"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    change: object, message: str, target_section: TrainingSection, cpu: ComputeSettings
) -> None:
    measured: Measured = change(target_section.measured)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        fit_released(TrainingSection(measured, target_section.folds[: len(measured)]), ReleasedSettings(), cpu, seed=0)

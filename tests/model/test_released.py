"""The replica of the released network: its parts, schedule, fit, resuming, model and prediction."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spamcaf.datasets.model import CheckpointFolder
from spamcaf.errors import InputError
from spamcaf.model.data import TrainingSection
from spamcaf.model.training import mean_gene_pearson
from spamcaf.parameters import ComputeSettings, ReleasedSettings
from spamcaf.peers import released as released_module
from spamcaf.peers.models import TrainedModel, predict
from spamcaf.peers.released import (
    FittedReleased,
    GatedAttentionPooling,
    ReleasedModel,
    ReleasedNetwork,
    ReleasedShape,
    chunks,
    fit_released,
    released_learning_rate,
)
from spamcaf.sections.sites import Measured, Sites

SETTINGS = ReleasedSettings(epochs=4, chunk=20, warmup_epochs=1)


def with_whole(sites: Sites) -> Sites:
    return replace(sites, whole=sites.neighbours.mean(axis=1))


@pytest.fixture(scope="session")
def seen_whole(section: Measured) -> Measured:
    """Return all spots, with the shrunk windows' features."""
    return replace(section, sites=with_whole(section.sites))


@pytest.fixture(scope="session")
def target_section(seen_whole: Measured, is_hidden: np.ndarray, folds: np.ndarray) -> TrainingSection:
    return TrainingSection(seen_whole.at(~is_hidden), folds)


@pytest.fixture(scope="session")
def released(target_section: TrainingSection, cpu: ComputeSettings) -> FittedReleased:
    return fit_released(target_section, SETTINGS, cpu, seed=5)


N_SITES, N_FEATURES, N_GENES = 6, 12, 5


@pytest.fixture
def network() -> ReleasedNetwork:
    torch.manual_seed(0)
    return ReleasedNetwork(ReleasedShape(N_FEATURES, N_GENES))


@pytest.fixture
def image_features() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(N_SITES, N_FEATURES), torch.randn(N_SITES, N_FEATURES)


def test_what_is_used_of_the_released_network_is_half_of_its_26_2_million_parameters() -> None:
    with torch.device("meta"):
        network = ReleasedNetwork(ReleasedShape(1024, 1000))
    n = sum(parameter.numel() for parameter in network.parameters())
    assert n == pytest.approx(0.52 * 26.2e6, rel=0.005)


def test_every_parameter_learns(network: ReleasedNetwork, image_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    (network(*image_features) - 1).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().sum() < 1e-6]
    assert idle == []


def test_expression_is_never_below_zero(
    network: ReleasedNetwork, image_features: tuple[torch.Tensor, torch.Tensor]
) -> None:
    out = network.eval()(*image_features)
    assert out.shape == (N_SITES, N_GENES)
    assert out.min() == 0
    assert out.max() > 0


def test_both_pictures_speak(network: ReleasedNetwork, image_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    network.eval()
    tile, window = image_features
    before = network(tile, window)
    assert not torch.allclose(network(tile + 1, window.flip(0)), before)
    assert not torch.allclose(network(tile.flip(0), window), before)
    assert not torch.allclose(network(tile, window.flip(0)), before)


def test_pooling_is_a_weighted_mean_of_the_tokens() -> None:
    torch.manual_seed(0)
    pooling = GatedAttentionPooling(width=4, hidden=8, dropout=0.25).eval()
    tokens = torch.randn(7, 2, 4)
    pooled = pooling(tokens)
    share = (pooled - tokens[:, 1]) / (tokens[:, 0] - tokens[:, 1])  # of the first token, the same in every feature
    torch.testing.assert_close(share, share[:, :1].expand(-1, 4), atol=1e-4, rtol=1e-3)
    assert ((share > 0) & (share < 1)).all()
    assert share[:, 0].std() > 1e-4
    torch.testing.assert_close(pooling(tokens.flip(1)), pooled)


ORIGINAL = ReleasedSettings()


@given(st.integers(2, 400), st.integers(3, 60))
def test_chunks_hold_every_spot_once_in_order_and_never_one_alone(n_spots: int, size: int) -> None:
    found = [np.arange(n_spots)[rows] for rows in chunks(n_spots, size)]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(n_spots))
    assert all(2 <= len(rows) <= size for rows in found)
    assert len(found) == -(-n_spots // size)


def test_a_single_spot_left_over_gets_company() -> None:
    assert [len(range(101)[rows]) for rows in chunks(101, 50)] == [50, 49, 2]
    assert [len(range(102)[rows]) for rows in chunks(102, 50)] == [50, 50, 2]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 2e-4), (1, 4e-4), (4, 1e-3), (5, 1e-3), (5 + 199, 9.05e-4), (999, 0.0)]
)
def test_the_rate_warms_up_and_follows_a_cosine(epoch: int, expected: float) -> None:
    assert released_learning_rate(epoch, ORIGINAL) == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_half_way_down_is_half_the_rate() -> None:
    assert released_learning_rate(55, ReleasedSettings(epochs=105)) == pytest.approx(5e-4)


def test_a_run_may_be_shorter_than_its_warm_up_or_have_none() -> None:
    assert [released_learning_rate(epoch, ReleasedSettings(epochs=2)) for epoch in range(2)] == pytest.approx(
        [2e-4, 4e-4]
    )
    assert released_learning_rate(0, ReleasedSettings(warmup_epochs=0)) == pytest.approx(1e-3)


def _parts(released: FittedReleased) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return released.model.to_tensors(), released.model.metadata()


def test_a_model_read_back_predicts_the_same(
    released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings
) -> None:
    names = [f"g{i}" for i in range(released.model.shape.n_genes)]
    record = dict.fromkeys(("spots", "program_genes", "backbone", "view"), "a")
    again = TrainedModel.from_tensors(*_parts(released), names, names, record).model
    assert isinstance(again, ReleasedModel)
    assert again.settings == released.model.settings
    before, after = (predict(model, None, seen_whole.sites, cpu).mean for model in (released.model, again))
    np.testing.assert_array_equal(before, after)


def test_tensors_are_plain_arrays_and_metadata_texts(released: FittedReleased) -> None:
    tensors, metadata = _parts(released)
    assert all(isinstance(t, np.ndarray) and t.dtype == np.float32 and t.ndim > 0 for t in tensors.values())
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, m: t.pop("genes.1.running_var"), r"missing \['genes.1.running_var'\]"),
        (lambda t, m: t.update(gate=np.zeros(3)), r"unknown \['gate'\]"),
        (lambda t, m: t.update({"genes.6.bias": t["genes.6.bias"][1:]}), "tensor genes.6.bias of shape"),
        (lambda t, m: t.update({"genes.6.bias": t["genes.6.bias"] * np.nan}), "NaN or Inf in tensor"),
        (lambda t, m: m.update(released_model="0"), "format '0'"),
    ],
)
def test_what_does_not_belong_together_is_refused(damage: object, message: str, released: FittedReleased) -> None:
    tensors, metadata = _parts(released)
    damage(tensors, metadata)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        TrainedModel.from_tensors(tensors, metadata, [], [], {})


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

    monkeypatch.setattr(released_module, "ReleasedNetwork", Watched)
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
    target_section: TrainingSection, cpu: ComputeSettings, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    found = fit_released(target_section, ReleasedSettings(epochs=epochs, learning_rate=1e38), cpu, seed=0)
    assert sum("not finite" in line for line in caplog.messages) == 1
    assert len(found.log) < epochs
    assert all(np.isfinite(tensor).all() for tensor in found.model.to_tensors().values())


def test_half_precision_is_close(target_section: TrainingSection) -> None:
    half = ComputeSettings(device="cpu", precision="bf16", threads=1)
    model = fit_released(target_section, ReleasedSettings(epochs=2), half, seed=0).model
    assert {tensor.dtype for tensor in model.to_tensors().values()} == {np.dtype(np.float32)}
    full = half.model_copy(update={"precision": "float32"})
    means = [predict(model, None, target_section.measured.sites, compute).mean for compute in (half, full)]
    np.testing.assert_allclose(*means, atol=0.1)


def test_progress_is_logged_about_twenty_times(
    target_section: TrainingSection, cpu: ComputeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    few = TrainingSection(target_section.measured.at(slice(0, 3)), target_section.folds[:3])
    fit_released(few, ReleasedSettings(epochs=41), cpu, seed=0)
    assert len(caplog.messages) == 20
    assert "epoch 2 of 41" in caplog.messages[0]


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


RESUMED = ReleasedSettings(epochs=5, checkpoint_epochs=2)


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(("at", "n_repeated"), [(2, 1), (5, 0)])
def test_a_fit_that_is_cut_off_goes_on(
    at: int,
    n_repeated: int,
    target_section: TrainingSection,
    cpu: ComputeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm = fit_released(target_section, RESUMED, cpu, seed=5)
    done, of_one = [], released_module._epoch

    def killed(*given: object) -> object:
        done.append(len(done) + 1)
        if len(done) == at:
            raise Killed
        return of_one(*given)

    monkeypatch.setattr(released_module, "_epoch", killed)
    with pytest.raises(Killed):
        fit_released(target_section, RESUMED, cpu, 5, checkpoints=CheckpointFolder(tmp_path))
    found = fit_released(target_section, RESUMED, cpu, 5, checkpoints=CheckpointFolder(tmp_path))
    assert found.log == calm.log
    for name, tensor in calm.model.to_tensors().items():
        np.testing.assert_array_equal(found.model.to_tensors()[name], tensor, err_msg=name)
    assert len(done) == RESUMED.epochs + 1 + n_repeated


def test_another_seed_begins_anew(
    target_section: TrainingSection, cpu: ComputeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    fit_released(target_section, RESUMED, cpu, 5, checkpoints=CheckpointFolder(tmp_path))
    fit_released(target_section, RESUMED, cpu, 6, CheckpointFolder(tmp_path))
    assert not any("goes on" in line for line in caplog.messages)
    fit_released(target_section, RESUMED, cpu, 6, CheckpointFolder(tmp_path))
    assert any("goes on after epoch 4 of 5" in line for line in caplog.messages)


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

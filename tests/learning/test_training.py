from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from spamcaf.compute import Machine
from spamcaf.model import training as training_module
from spamcaf.model.data import SiteTensors, SpotTensors, fit_projection
from spamcaf.model.network import SpamcafNetwork, SpamcafShape
from spamcaf.model.training import FoldData, Losses, begin, learning_rate_at, step_losses, train_fold
from spamcaf.parameters import FitSettings
from spamcaf.sections.sites import Measured

CPU = Machine(torch.device("cpu"), use_bf16=False)
N_PROGRAMS = 2
SHAPE = SpamcafShape(n_components=6, n_programs=N_PROGRAMS, width=8, heads=2, depth=1, dropout=0.0, n_summary=2)


def _no_log(_losses: list[float]) -> None:
    """The log is not this file's business."""


@pytest.fixture
def lesson_of(visible: Measured, folds: np.ndarray) -> Callable[[torch.Tensor], FoldData]:
    """Make the lesson of fold 0 for given scores (spot, program)."""
    sites = visible.sites
    projection = fit_projection(sites.neighbours.reshape(-1, sites.neighbours.shape[-1]), 6)
    centre = sites.neighbours.mean(axis=(0, 1))
    view = SiteTensors.of(sites, centre, sites.xy_um.mean(axis=0), projection, CPU.device)
    section = np.zeros(len(visible), np.int64)
    loss_weights = torch.full((N_PROGRAMS,), 1 / N_PROGRAMS)

    def make(scores: torch.Tensor) -> FoldData:
        return FoldData.of(SpotTensors(view, scores), section, sites.xy_um, folds == 0, loss_weights, 5, CPU)

    return make


FIT = FitSettings(epochs=3, batch=16)


def _trained(data: FoldData) -> SpamcafNetwork:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE)
    training = begin(network, FIT)
    train_fold(training, data, FIT, _no_log)
    assert training.is_finite and training.epoch == 3
    return network


def test_the_held_folds_expression_is_seen_by_nothing(
    lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray
) -> None:
    scores = torch.randn(len(folds), N_PROGRAMS)
    changed = scores.clone()
    changed[torch.from_numpy(folds == 0)] += 10
    one, other = lesson_of(scores), lesson_of(changed)
    network, network_again = _trained(one), _trained(other)
    for a, b in zip(network.parameters(), network_again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(one.validation_scores(network, False), other.validation_scores(network_again, False))


def test_a_spots_own_expression_is_not_among_its_context(
    lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE).eval()
    scores = torch.randn(len(folds), N_PROGRAMS)
    (rows,) = lesson_of(scores).train
    visible, everything = torch.ones(len(folds), dtype=torch.bool), torch.arange(len(folds))
    for row in rows[:5]:
        changed = scores.clone()
        changed[row] += 10
        out = lesson_of(scores).answer(network, rows, visible, False, everything).fusion
        again = lesson_of(changed).answer(network, rows, visible, False, everything).fusion
        moved = (out - again).abs().amax(1) > 1e-6
        assert not moved[rows == row].any()
        assert moved.any()


def test_blind_means_neither_context_nor_position(
    lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE).eval()
    data = lesson_of(torch.randn(len(folds), N_PROGRAMS))
    sites = data.spots.sites
    moved = SpotTensors(replace(sites, xy_um=sites.xy_um.flip(0) * 2), torch.randn(len(folds), N_PROGRAMS))
    elsewhere = replace(data, spots=moved)
    torch.testing.assert_close(data.validation_scores(network, True), elsewhere.validation_scores(network, True))
    assert not torch.allclose(data.validation_scores(network, False), elsewhere.validation_scores(network, False))


def test_every_parameter_is_taught(lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray) -> None:
    fit = FIT.model_copy(update={"transfer_step_share": 0.5})
    torch.manual_seed(0)
    training = begin(SpamcafNetwork(SHAPE), fit)
    train_fold(training, lesson_of(torch.randn(len(folds), N_PROGRAMS)), fit, _no_log)
    moments = {name: training.optimizer.state[p] for name, p in training.network.named_parameters()}
    assert [name for name, state in moments.items() if not state or state["exp_avg_sq"].max() == 0] == []


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    fit = FitSettings(learning_rate=2.0, warmup_share=0.2)
    rates = [learning_rate_at(step, 20, fit) for step in range(20)]
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0])
    assert rates[4] == 2.0 and rates[12] == pytest.approx(1.0)
    assert all(a > b > 0 for a, b in pairwise(rates[4:]))
    assert learning_rate_at(20, 20, fit) == pytest.approx(0.0)
    assert learning_rate_at(0, 1, FitSettings(learning_rate=2.0, warmup_share=0.0)) == 2.0


def test_the_optimiser_is_given_that_rate_and_clipped_gradients(
    lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FIT.model_copy(update={"clip_norm": 1e-3})
    rates, norms = [], []

    class Watched(torch.optim.AdamW):
        def step(self, *_: object) -> None:
            rates.append(self.param_groups[0]["lr"])
            gradients = [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
            norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    data = lesson_of(torch.randn(len(folds), N_PROGRAMS))
    train_fold(begin(SpamcafNetwork(SHAPE), fit), data, fit, _no_log)
    assert len(rates) % fit.epochs == 0
    assert rates == [learning_rate_at(step, len(rates), fit) for step in range(len(rates))]
    assert max(norms) <= 1.001e-3


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_one_bad_step_takes_back_the_whole_epoch(
    what: str, lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lesson_of(torch.randn(len(folds), N_PROGRAMS))
    torch.manual_seed(0)
    training = begin(SpamcafNetwork(SHAPE), FIT)
    good: list[dict[str, torch.Tensor]] = []

    def spoilt(*given: object) -> Losses:
        losses = step_losses(*given)  # type: ignore[arg-type]
        if len(good) < 2:
            return losses
        if what == "loss":
            return losses._replace(total=losses.total * torch.nan)
        losses.total.register_hook(lambda gradient: gradient * torch.inf)
        return losses

    monkeypatch.setattr(training_module, "step_losses", spoilt)
    train_fold(training, data, FIT, lambda _: good.append(training.weights()))
    assert (training.epoch, training.is_finite, len(good)) == (2, False, 2)
    for name, tensor in training.network.state_dict().items():
        torch.testing.assert_close(tensor, good[-1][name], rtol=0, atol=0)


class Nowhere(Machine):
    """A device without any values: what asks for one fails."""

    def autocast(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def test_a_step_never_waits_for_the_device(lesson_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray) -> None:
    def there(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to("meta")
        if isinstance(value, tuple):
            return tuple(there(part) for part in value)
        return type(value)(*(there(part) for part in vars(value).values())) if hasattr(value, "xy_um") else value

    data = lesson_of(torch.randn(len(folds), N_PROGRAMS))
    (rows,) = data.train
    spots = SpotTensors(there(data.spots.sites), there(data.spots.scores))
    fields = {name: there(value) for name, value in vars(data).items()}
    away = FoldData(**{**fields, "spots": spots, "machine": Nowhere(torch.device("meta"), use_bf16=False)})
    network = SpamcafNetwork(SHAPE).to("meta")
    for transfer_step_share in (0.0, 1.0):
        fit = FIT.model_copy(update={"transfer_step_share": transfer_step_share})
        losses = step_losses(network, away, 0, rows.to("meta"), fit)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), fit.clip_norm)
        assert losses.total.is_meta and norm.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.isfinite(losses.total))

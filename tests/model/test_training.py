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
from spamcaf.model.data import FeaturePCA, PooledSections, SiteTensors, SpotTensors
from spamcaf.model.network import SpamcafNetwork, SpamcafOutput, SpamcafShape
from spamcaf.model.programs import learn_programs
from spamcaf.model.training import (
    FoldData,
    FoldTrainer,
    Losses,
    learning_rate_at,
    make_optimizer,
    program_loss,
    spamcaf_losses,
    step_losses,
    train_fold,
)
from spamcaf.parameters import FitSettings, NetworkSettings
from spamcaf.sections.sites import Measured

CPU = Machine(torch.device("cpu"), use_bf16=False)
N_PROGRAMS = 2
SHAPE = SpamcafShape(n_components=6, n_programs=N_PROGRAMS, width=8, heads=2, depth=1, dropout=0.0, n_summary=2)


def _no_log(_losses: list[float]) -> None:
    """Log nothing."""


@pytest.fixture
def data_of(visible: Measured, folds: np.ndarray) -> Callable[[torch.Tensor], FoldData]:
    """Return a maker of the data of fold 0 for given scores (spot, program)."""
    sites = visible.sites
    projection = FeaturePCA.fit(sites.neighbours.reshape(-1, sites.neighbours.shape[-1]), 6)
    centre = sites.neighbours.mean(axis=(0, 1))
    view = SiteTensors.from_sites(sites, centre, sites.xy_um.mean(axis=0), projection, CPU.device)
    section = np.zeros(len(visible), np.int64)
    loss_weights = torch.full((N_PROGRAMS,), 1 / N_PROGRAMS)

    def make(scores: torch.Tensor) -> FoldData:
        return FoldData.of_fold(SpotTensors(view, scores), section, sites.xy_um, folds == 0, loss_weights, 5, CPU)

    return make


FIT = FitSettings(epochs=3, batch=16)


def _trained(data: FoldData) -> SpamcafNetwork:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE)
    losses: list[list[float]] = []
    assert train_fold(network, data, FIT, losses.append)
    assert len(losses) == 3
    return network


def test_the_held_folds_expression_is_seen_by_nothing(
    data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray
) -> None:
    scores = torch.randn(len(folds), N_PROGRAMS)
    changed = scores.clone()
    changed[torch.from_numpy(folds == 0)] += 10
    one, other = data_of(scores), data_of(changed)
    network, network_again = _trained(one), _trained(other)
    for a, b in zip(network.parameters(), network_again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(
        one.validation_scores(network, without_context=False),
        other.validation_scores(network_again, without_context=False),
    )


def test_a_spots_own_expression_is_not_among_its_context(
    data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE).eval()
    scores = torch.randn(len(folds), N_PROGRAMS)
    (rows,) = data_of(scores).train
    visible, everything = torch.ones(len(folds), dtype=torch.bool), torch.arange(len(folds))
    for row in rows[:5]:
        changed = scores.clone()
        changed[row] += 10
        out = data_of(scores).forward(network, rows, visible, without_context=False, section=everything).fusion
        again = data_of(changed).forward(network, rows, visible, without_context=False, section=everything).fusion
        moved = (out - again).abs().amax(1) > 1e-6
        assert not moved[rows == row].any()
        assert moved.any()


def test_without_context_neither_scores_nor_positions_count(
    data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE).eval()
    data = data_of(torch.randn(len(folds), N_PROGRAMS))
    sites = data.spots.sites
    moved = SpotTensors(replace(sites, xy_um=sites.xy_um.flip(0) * 2), torch.randn(len(folds), N_PROGRAMS))
    elsewhere = replace(data, spots=moved)
    torch.testing.assert_close(
        data.validation_scores(network, without_context=True),
        elsewhere.validation_scores(network, without_context=True),
    )
    assert not torch.allclose(
        data.validation_scores(network, without_context=False),
        elsewhere.validation_scores(network, without_context=False),
    )


def test_every_parameter_is_trained(
    data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FIT.model_copy(update={"transfer_step_share": 0.5})
    torch.manual_seed(0)
    network, made = SpamcafNetwork(SHAPE), []
    monkeypatch.setattr(
        training_module, "make_optimizer", lambda *given: made.append(make_optimizer(*given)) or made[0]
    )
    train_fold(network, data_of(torch.randn(len(folds), N_PROGRAMS)), fit, _no_log)
    moments = {name: made[0].state[p] for name, p in network.named_parameters()}
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
    data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FIT.model_copy(update={"clip_norm": 1e-3})
    rates, norms = [], []

    class Watched(torch.optim.AdamW):
        def step(self, *_: object) -> None:
            rates.append(self.param_groups[0]["lr"])
            gradients = [p.grad for p in self.param_groups[0]["params"] if p.grad is not None]
            norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    data = data_of(torch.randn(len(folds), N_PROGRAMS))
    train_fold(SpamcafNetwork(SHAPE), data, fit, _no_log)
    assert len(rates) % fit.epochs == 0
    assert rates == [learning_rate_at(step, len(rates), fit) for step in range(len(rates))]
    assert max(norms) <= 1.001e-3


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_one_bad_step_takes_back_the_whole_epoch(
    what: str, data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(torch.randn(len(folds), N_PROGRAMS))
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE)
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
    is_whole = train_fold(
        network, data, FIT, lambda _: good.append({n: t.detach().clone() for n, t in network.state_dict().items()})
    )
    assert (is_whole, len(good)) == (False, 2)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, good[-1][name], rtol=0, atol=0)


class Nowhere(Machine):
    """A device without any values: what asks for one fails."""

    def autocast(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def test_a_step_never_waits_for_the_device(data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray) -> None:
    def there(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.to("meta")
        if isinstance(value, tuple):
            return tuple(there(part) for part in value)
        return type(value)(*(there(part) for part in vars(value).values())) if hasattr(value, "xy_um") else value

    data = data_of(torch.randn(len(folds), N_PROGRAMS))
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


@pytest.mark.parametrize(("dropout", "expected"), [(None, 0.5), (0.0, 1.0), (1.0, 0.0), (0.8, 0.2)])
def test_context_dropout_hides_that_share_of_the_training_spots(
    dropout: float | None,
    expected: float,
    data_of: Callable[[torch.Tensor], FoldData],
    folds: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = FitSettings() if dropout is None else FitSettings(context_dropout=dropout)
    data, shares = data_of(torch.randn(len(folds), N_PROGRAMS)), []
    forward = FoldData.forward

    def watched(self: FoldData, network: SpamcafNetwork, rows: torch.Tensor, is_visible: torch.Tensor, **how: object):
        assert not is_visible[self.is_validation].any()
        shares.append(is_visible[~self.is_validation].float().mean().item())
        return forward(self, network, rows, is_visible, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(FoldData, "forward", watched)
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE)
    for _ in range(20):
        step_losses(network, data, 0, data.train[0], settings)
    assert np.mean(shares) == pytest.approx(expected, abs=0.05)
    assert dropout in {0.0, 1.0} or np.std(shares) > 0  # another part at each step


def test_a_share_of_the_steps_has_no_context(
    data_of: Callable[[torch.Tensor], FoldData], folds: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, without = data_of(torch.randn(len(folds), N_PROGRAMS)), []
    forward = FoldData.forward

    def watched(self: FoldData, *given: object, without_context: bool, section: torch.Tensor):
        without.append(without_context)
        return forward(self, *given, without_context=without_context, section=section)  # type: ignore[arg-type]

    monkeypatch.setattr(FoldData, "forward", watched)
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE)
    for _ in range(200):
        step_losses(network, data, 0, data.train[0][:4], FitSettings())
    assert np.mean(without) == pytest.approx(0.15, abs=0.08)


def test_loss_weights_are_the_variance_that_each_program_adds_to_the_genes(pooled: PooledSections) -> None:
    programs, _ = learn_programs(pooled.weighted_residuals(0), [], 4, 40, 0)
    scores = pooled.scores(programs)
    network = NetworkSettings(width=16, heads=2, image_components=6)
    trainer = FoldTrainer(pooled, programs, scores, FIT, network, CPU, 0)
    # what one standard deviation of a score changes in the decoded genes, each divided by its scale
    change = scores.std(axis=0)
    step = 1e-3
    decoded = [pooled.means[0].decode(programs, sign * step * np.eye(len(change))) for sign in (1, -1)]
    per_unit = (decoded[0] - decoded[1]) / (2 * step) / programs.gene_scale
    variance = np.square(per_unit).sum(axis=1) * change**2
    assert variance.max() > 2 * variance.min()
    np.testing.assert_allclose(trainer.loss_weights.numpy(), variance / variance.sum(), rtol=1e-2)


def test_squared_error_and_correlation_are_added() -> None:
    truth = torch.tensor([[1.0], [2.0], [3.0]])
    shifted = program_loss(truth + 2, truth, torch.ones(1), pearson_weight=0.5)
    turned = program_loss(-truth, truth, torch.ones(1), pearson_weight=0.5)
    assert shifted.item() == pytest.approx(4.0, abs=1e-5)
    assert turned.item() == pytest.approx(4 * 14 / 3 + 0.5 * 2, abs=1e-5)


def test_programs_count_by_their_loss_weights() -> None:
    truth, predicted = torch.zeros(4, 2), torch.tensor([[1.0, 3.0]] * 4)
    loss = program_loss(predicted, truth, torch.tensor([0.75, 0.25]), pearson_weight=0.0)
    assert loss.item() == pytest.approx(0.75 * 1 + 0.25 * 9)


def test_a_constant_prediction_has_finite_gradients() -> None:
    predicted = torch.zeros(5, 2, requires_grad=True)
    program_loss(predicted, torch.randn(5, 2), torch.tensor([0.5, 0.5]), pearson_weight=1.0).backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_each_head_has_its_loss_and_weight() -> None:
    truth = torch.zeros(3, 1)
    out = SpamcafOutput(*(torch.full((3, 1), float(k)) for k in (1, 2, 3, 4)))
    losses = spamcaf_losses(out, truth, torch.ones(1), 0.0, (1.0, 0.0, 2.0, 0.5))
    assert [part.item() for part in losses.parts] == [1, 4, 9, 16]
    assert losses.total.item() == pytest.approx(1 + 18 + 8)

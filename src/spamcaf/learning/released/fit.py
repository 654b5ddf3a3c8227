"""Fitting the replica of the released network, as its code does: one network, one loss, nothing held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spamcaf.compute import Machine, computing, seeded
from spamcaf.errors import InputError
from spamcaf.learning.checkpoints import Checkpoints, NoCheckpoints
from spamcaf.learning.keeper import Keeper, Rows, training_key
from spamcaf.learning.pool import Visible
from spamcaf.learning.released.model import ReleasedModel
from spamcaf.learning.released.pictures import pictures_of
from spamcaf.learning.released.schedule import chunks, rate
from spamcaf.learning.state import Training
from spamcaf.network.released import ReleasedNetwork, ReleasedShape
from spamcaf.parameters import ComputeSettings, ReleasedSettings

FEWEST_SPOTS = 2
N_REPORTS = 20

Log = Callable[[str], None]


@dataclass(frozen=True)
class FittedReleased:
    """The model, and the log: one row per epoch."""

    model: ReleasedModel
    log: list[dict[str, Any]]


class _Lesson(NamedTuple):
    """All visible spots, on the device once."""

    target: Tensor  # (spot, feature)
    whole: Tensor  # (spot, feature)
    expression: Tensor  # (spot, gene)


def fit_released(
    home: Visible,
    settings: ReleasedSettings,
    compute: ComputeSettings,
    seed: int,
    log: Log | None = None,
    checkpoints: Checkpoints | None = None,
) -> FittedReleased:
    """Fit the replica to the visible spots of a section, in the order in which they are given.

    The folds are not used: the released code holds nothing out. The same seed gives the same weights on a CPU. `log` is
    told, line by line, how the fit goes. A fit that was cut off goes on from its `checkpoints`.
    """
    if len(home.measured) < FEWEST_SPOTS:
        raise InputError(f"{len(home.measured)} visible spots.", "at least 2.", "Hide fewer spots.")
    target, whole = pictures_of(home.measured.sites)
    shape = ReleasedShape(target.shape[1], home.measured.expression.shape[1])
    # on busy cores a second thread cost twice the time
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        lesson = _Lesson(*(_on(machine, part) for part in (target, whole, home.measured.expression)))
        with seeded(seed, machine.device):
            network = ReleasedNetwork(shape).to(machine.device)
            training = Training(network, torch.optim.Adam(network.parameters(), fused=True))
            arrays = {name: part.cpu().numpy() for name, part in lesson._asdict().items()}
            key = training_key(arrays, (settings,), machine, seed)
            keeper = Keeper(checkpoints or NoCheckpoints(), "released", key)
            rows = _train(training, lesson, settings, machine, keeper, log or (lambda _: None))
    return FittedReleased(ReleasedModel.of(network, shape, settings), rows)


def _on(machine: Machine, values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(machine.device)


def _train(
    training: Training[ReleasedNetwork],
    lesson: _Lesson,
    settings: ReleasedSettings,
    machine: Machine,
    keeper: Keeper,
    say: Log,
) -> Rows:
    """Train in place; at the first epoch that is not finite, stop with the weights of the one before."""
    rows = keeper.resume(training)
    if rows:
        say(f"released: goes on after epoch {len(rows)} of {settings.epochs}")
    while training.is_finite and training.epoch < settings.epochs:
        good = training.weights()
        loss = _epoch(training, lesson, settings, machine)
        if not _is_finite(training.network, loss):
            training.network.load_state_dict(good)
            training.is_finite = False
            say(f"loss or weights not finite in epoch {training.epoch + 1}, kept the weights before it")
            break
        rows.append({"fold": 0, "epoch": training.epoch, "loss": float(loss)})
        training.epoch += 1
        if training.epoch % max(1, settings.epochs // N_REPORTS) == 0:
            say(f"released: epoch {training.epoch} of {settings.epochs}, mean squared error {float(loss):.4f}")
        if training.epoch % settings.checkpoint_epochs == 0:
            keeper.keep(training, rows)
    return rows


def _epoch(
    training: Training[ReleasedNetwork], lesson: _Lesson, settings: ReleasedSettings, machine: Machine
) -> Tensor:
    """Take a step per chunk; return the mean squared error over all spots, each as it was when its chunk came."""
    training.network.train()
    n_spots = len(lesson.expression)
    total = torch.zeros((), device=machine.device)
    for rows in chunks(n_spots, settings.chunk):
        target, whole, truth = (part[rows] for part in lesson)
        with machine.autocast():
            guess = training.network(target, whole)
        loss = torch.nn.functional.mse_loss(guess.float(), truth)
        training.optimizer.zero_grad()
        loss.backward()
        training.step(rate(training.epoch, settings))
        total += loss.detach() * len(truth)
    return total / n_spots


def _is_finite(network: ReleasedNetwork, loss: Tensor) -> bool:
    # once per epoch: a step that overflows leaves its mark in the weights, and a look at every step would halt the GPU
    marks = [loss, *(tensor.sum() for tensor in network.state_dict().values())]
    return bool(torch.isfinite(torch.stack([mark.float() for mark in marks])).all())

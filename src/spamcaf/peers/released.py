"""A replica of the network that the released SpaMCAF code computes, to compare with.

Written anew from a description: tile and shrunk window as two tokens, gated attention pooling, an MLP to the genes.
One network, mean squared error, the released schedule, no validation, no early stopping.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spamcaf.compute import Machine, computing, seeded
from spamcaf.errors import InputError
from spamcaf.model.data import TrainingSection
from spamcaf.model.fitted import check_tensors, read_sizes, require_format, require_n_features
from spamcaf.model.training import Checkpoint, Checkpoints, LogRows, Tensors, input_fingerprint, load_weights, take_step
from spamcaf.parameters import ComputeSettings, ReleasedSettings
from spamcaf.sections.sites import CHUNK, Sites, SiteSource, iter_chunks

logger = logging.getLogger(__name__)

HIDDEN = 2048
TOKEN = 1024
ATTENTION = 512
TOKEN_DROPOUT, ATTENTION_DROPOUT = 0.1, 0.25


@dataclass(frozen=True)
class ReleasedShape:
    """Sizes that the data give; the widths between are those of the released code."""

    n_features: int
    n_genes: int


class GatedAttentionPooling(nn.Module):
    """A weighted mean of tokens; weights are tanh x sigmoid of each token, one number each, softmax over the tokens."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        # no bias: the softmax would take it out again, and it would never learn
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (site, width) for (site, token, width)."""
        weights = self.score(self.content(tokens) * self.gate(tokens)).softmax(dim=1)  # (site, token, 1)
        return (weights * tokens).sum(dim=1)


class ReleasedNetwork(nn.Module):
    """From the features of a site's tile and of the window around it to its expression."""

    def __init__(self, shape: ReleasedShape) -> None:
        super().__init__()
        self.tokens = nn.Sequential(
            nn.LayerNorm(shape.n_features),
            nn.Linear(shape.n_features, HIDDEN),
            nn.GELU(),
            nn.Dropout(TOKEN_DROPOUT),
            nn.Linear(HIDDEN, TOKEN),
            nn.Dropout(TOKEN_DROPOUT),
        )
        self.pooling = GatedAttentionPooling(TOKEN, ATTENTION, ATTENTION_DROPOUT)
        # no bias before a batch norm: it would be taken out again with the mean
        hidden = [[nn.Linear(n, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU()] for n in (TOKEN, HIDDEN)]
        self.genes = nn.Sequential(*hidden[0], *hidden[1], nn.Linear(HIDDEN, shape.n_genes), nn.ReLU())

    def forward(self, target: Tensor, whole: Tensor) -> Tensor:
        """Return (site, gene), none below 0, for the features (site, feature) of tile and shrunk window."""
        tokens = torch.stack([target, whole], dim=1)  # (site, 2, feature)
        return self.genes(self.pooling(self.tokens(tokens)))


def chunks(n_spots: int, size: int) -> list[slice]:
    """Return the spots of each step, at most `size`, in order and the same in every epoch.

    A single spot left over has no variance for a batch norm: it gets one more spot from the chunk before it.
    """
    bounds = [*range(0, n_spots, size), n_spots]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:  # noqa: PLR2004  more than one chunk
        bounds[-2] -= 1
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def released_learning_rate(epoch: int, settings: ReleasedSettings) -> float:
    """Return the learning rate of an epoch: a linear rise to the peak, then a cosine towards 0."""
    if epoch < settings.warmup_epochs:
        return settings.learning_rate * (epoch + 1) / settings.warmup_epochs
    share = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def tile_and_window_features(sites: Sites) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return features (site, feature) of tiles and shrunk windows; InputError where the latter are absent or NaN."""
    if sites.whole is None:
        raise InputError(
            "features without the whole window shrunk to one tile.",
            "that one too: it is an input of the model `released`.",
            "Compute the features again (pipeline feature_extraction) with fit.model=released.",
        )
    if not np.isfinite(sites.whole).all():
        raise InputError("NaN or Inf in the shrunk windows' features.", "finite numbers.", "Embed those sites again.")
    return sites.target, sites.whole


FORMAT = "1"
KIND = "released_model"
"""The text by which a file states that it holds this model, and of which format."""
COUNTER = "num_batches_tracked"
"""Part of torch's batch norms that ours do not use: their momentum is fixed."""


@dataclass(frozen=True)
class ReleasedModel:
    """A fitted network: its `weights` by name, with the running means of the batch norms."""

    weights: Tensors
    shape: ReleasedShape
    settings: ReleasedSettings

    @classmethod
    def of_network(cls, network: ReleasedNetwork, shape: ReleasedShape, settings: ReleasedSettings) -> ReleasedModel:
        """Return the model of a trained network."""
        state = network.state_dict().items()
        weights = {name: tensor.cpu().numpy() for name, tensor in state if not name.endswith(COUNTER)}
        return cls(weights, shape, settings)

    def network(self) -> ReleasedNetwork:
        """Return the network, ready to predict."""
        network = ReleasedNetwork(self.shape)
        counters = {name: t.numpy() for name, t in network.state_dict().items() if name.endswith(COUNTER)}
        load_weights(network, self.weights | counters)
        return network.eval()

    def to_tensors(self) -> Tensors:
        """Return all arrays by name."""
        return dict(self.weights)

    def metadata(self) -> dict[str, str]:
        """Return what is no array, as texts."""
        return {KIND: FORMAT, "sizes": json.dumps(vars(self.shape)), "settings": self.settings.model_dump_json()}

    @classmethod
    def from_tensors(cls, tensors: Tensors, metadata: dict[str, str]) -> ReleasedModel:
        """Return the model of `to_tensors()` and `metadata()`.

        Raises InputError if a tensor is missing, unknown, of the wrong shape or not finite, or the format is another.
        """
        require_format(metadata, KIND, FORMAT, "`released`")
        sizes = read_sizes(metadata["sizes"], tensors)
        shape = ReleasedShape(sizes["n_features"], sizes["n_genes"])
        with torch.device("meta"):
            state = ReleasedNetwork(shape).state_dict()
        check_tensors(tensors, {name: tuple(t.shape) for name, t in state.items() if not name.endswith(COUNTER)})
        return cls(tensors, shape, ReleasedSettings.model_validate_json(metadata["settings"]))


FEWEST_SPOTS = 2
N_REPORTS = 20
NETWORK, OPTIMIZER, RANDOM_CPU, RANDOM_CUDA = "network.", "optimizer.", "random.cpu", "random.cuda"


@dataclass
class TrainingState:
    """Weights, optimiser and torch's random state as arrays; restoring it is bit-exact.

    `epoch` epochs are done; `is_finite` is False where training stopped at an epoch that was not.
    """

    network: ReleasedNetwork
    optimizer: torch.optim.Optimizer
    device: torch.device
    epoch: int = 0
    is_finite: bool = True

    def to_tensors(self) -> Tensors:
        """Return everything by name."""
        found = {NETWORK + name: tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            found |= {f"{OPTIMIZER}{name}.{part}": t for part, t in self.optimizer.state[parameter].items()}
        found[RANDOM_CPU] = torch.get_rng_state()
        if self.device.type == "cuda":
            found[RANDOM_CUDA] = torch.cuda.get_rng_state(self.device)
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    def restore(self, tensors: Tensors, epoch: int, *, is_finite: bool) -> None:
        """Restore what `to_tensors()` gave after `epoch` epochs, torch's random state included."""
        self.network.load_state_dict(self._of(tensors, NETWORK))
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = self._of(tensors, f"{OPTIMIZER}{name}.")
        self.epoch, self.is_finite = epoch, is_finite
        torch.set_rng_state(torch.from_numpy(tensors[RANDOM_CPU]))
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(tensors[RANDOM_CUDA]), self.device)

    def _of(self, tensors: Tensors, prefix: str) -> dict[str, Tensor]:
        found = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        return {name: torch.from_numpy(np.array(array)).to(self.device) for name, array in found.items()}


class FittedReleased(NamedTuple):
    """The model, and the training log: one row per epoch."""

    model: ReleasedModel
    log: LogRows


class _SpotTensors(NamedTuple):
    """All visible spots, on the device."""

    target: Tensor  # (spot, feature)
    whole: Tensor  # (spot, feature)
    expression: Tensor  # (spot, gene)


def fit_released(
    target_section: TrainingSection,
    settings: ReleasedSettings,
    compute: ComputeSettings,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> FittedReleased:
    """Fit the replica to the visible spots of a section, in the order in which they are given.

    The section's folds are not used: the released code has no validation spots. The same seed gives the same weights on
    a CPU. The training state is stored in `checkpoints` every `settings.checkpoint_epochs`; a fit that was cut off goes
    on from it.
    """
    measured = target_section.measured
    if len(measured) < FEWEST_SPOTS:
        raise InputError(f"{len(measured)} visible spots.", "at least 2.", "Hide fewer spots.")
    target, whole = tile_and_window_features(measured.sites.at(slice(None)))
    shape = ReleasedShape(target.shape[1], measured.expression.shape[1])
    arrays = {"target": target, "whole": whole, "expression": measured.expression}
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    # on busy cores a second thread cost twice the time
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        data = _SpotTensors(**{name: torch.from_numpy(array).to(machine.device) for name, array in arrays.items()})
        with seeded(seed, machine.device):
            network = ReleasedNetwork(shape).to(machine.device)
            optimizer = torch.optim.Adam(network.parameters(), fused=True)
            state = TrainingState(network, optimizer, machine.device)
            key = input_fingerprint(arrays, (settings,), machine, seed)
            rows = _train(state, data, settings, machine, checkpoints, key)
    return FittedReleased(ReleasedModel.of_network(network, shape, settings), rows)


def _train(
    state: TrainingState,
    data: _SpotTensors,
    settings: ReleasedSettings,
    machine: Machine,
    checkpoints: Checkpoints | None,
    key: str,
) -> LogRows:
    """Train in place; at the first epoch that is not finite, stop with the weights of the one before."""
    rows: LogRows = []
    stored = checkpoints.load("released", key) if checkpoints else None
    if stored is not None:
        rows = stored.record["log"]
        state.restore(stored.tensors, len(rows), is_finite=stored.record["is_finite"])
        logger.info("released: goes on after epoch %d of %d", len(rows), settings.epochs)
    while state.is_finite and state.epoch < settings.epochs:
        before = {name: tensor.detach().clone() for name, tensor in state.network.state_dict().items()}
        loss = _epoch(state, data, settings, machine)
        if not _is_finite(state.network, loss):
            state.network.load_state_dict(before)
            state.is_finite = False
            logger.warning("loss or weights not finite in epoch %d, kept the weights before it", state.epoch + 1)
            break
        rows.append({"fold": 0, "epoch": state.epoch, "loss": float(loss)})
        state.epoch += 1
        if state.epoch % max(1, settings.epochs // N_REPORTS) == 0:
            logger.info("released: epoch %d of %d, mean squared error %.4f", state.epoch, settings.epochs, float(loss))
        if checkpoints and state.epoch % settings.checkpoint_epochs == 0:
            record: dict[str, Any] = {"log": rows, "is_finite": state.is_finite}
            checkpoints.save("released", key, Checkpoint(state.to_tensors(), record))
    return rows


def _epoch(state: TrainingState, data: _SpotTensors, settings: ReleasedSettings, machine: Machine) -> Tensor:
    """Take a step per chunk; return the mean squared error over all spots, each as it was when its chunk came."""
    state.network.train()
    n_spots = len(data.expression)
    total = torch.zeros((), device=machine.device)
    for rows in chunks(n_spots, settings.chunk):
        target, whole, truth = (part[rows] for part in data)
        with machine.autocast():
            predicted = state.network(target, whole)
        loss = torch.nn.functional.mse_loss(predicted.float(), truth)
        state.optimizer.zero_grad()
        loss.backward()
        take_step(state.optimizer, released_learning_rate(state.epoch, settings))
        total += loss.detach() * len(truth)
    return total / n_spots


def _is_finite(network: ReleasedNetwork, loss: Tensor) -> bool:
    # Once per epoch: a step that overflows makes weights that are not finite, and reading a value at every step would
    # halt a GPU.
    sums = [loss, *(tensor.sum() for tensor in network.state_dict().values())]
    return bool(torch.isfinite(torch.stack([value.float() for value in sums])).all())


@torch.no_grad()
def predict_released(model: ReleasedModel, sites: SiteSource, compute: ComputeSettings) -> NDArray[np.float32]:
    """Return (site, gene) log1p of counts per 10 000, from image features alone; none is below 0."""
    done = [np.empty((0, model.shape.n_genes), np.float32)]
    with computing(compute) as machine:
        network = model.network().to(machine.device)
        for part in iter_chunks(sites, CHUNK):
            features = tile_and_window_features(part)
            require_n_features(model.shape.n_features, features[0])
            with machine.autocast():
                predicted = network(*(torch.from_numpy(array).to(machine.device) for array in features))
            done.append(predicted.float().cpu().numpy())
    return np.concatenate(done)

"""A replica of the released SpaMCAF network, written anew from a description.

Network, training, model and prediction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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
from spamcaf.model.fitted import Tensors, check_tensors
from spamcaf.model.training import Checkpoints, Keeper, NoCheckpoints, Rows, TrainingState, input_fingerprint
from spamcaf.parameters import ComputeSettings, ReleasedSettings
from spamcaf.sections.sites import CHUNK, Sites, SiteSource, iter_chunks

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
    """A weighted mean of tokens, each weighed by itself: tanh x sigmoid, one number, softmax over the tokens."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        # no bias: the softmax would take it out again, and it would never learn
        self.weigh = nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (site, width) for (site, token, width)."""
        weights = self.weigh(self.content(tokens) * self.gate(tokens)).softmax(dim=1)  # (site, token, 1)
        return (weights * tokens).sum(dim=1)


def _token_mlp(n_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(n_features),
        nn.Linear(n_features, HIDDEN),
        nn.GELU(),
        nn.Dropout(TOKEN_DROPOUT),
        nn.Linear(HIDDEN, TOKEN),
        nn.Dropout(TOKEN_DROPOUT),
    )


def _gene_mlp(n_genes: int) -> nn.Sequential:
    # no bias before a batch norm: it would be taken out again with the mean
    return nn.Sequential(
        nn.Linear(TOKEN, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, n_genes),
        nn.ReLU(),
    )


class ReleasedNetwork(nn.Module):
    """From two pictures of a site, the tile there and the window around it, to its expression."""

    def __init__(self, shape: ReleasedShape) -> None:
        super().__init__()
        self.tokens = _token_mlp(shape.n_features)
        self.pooling = GatedAttentionPooling(TOKEN, ATTENTION, ATTENTION_DROPOUT)
        self.genes = _gene_mlp(shape.n_genes)

    def forward(self, target: Tensor, whole: Tensor) -> Tensor:
        """Return (site, gene), none below 0, for the features (site, feature) of tile and shrunk window."""
        image_features = torch.stack([target, whole], dim=1)  # (site, 2, feature)
        return self.genes(self.pooling(self.tokens(image_features)))


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
    """Return the features (site, feature) of the tiles and of the shrunk windows.

    Raises InputError where the latter were not computed or are not finite.
    """
    if sites.whole is None:
        raise InputError(
            "features without the whole window shrunk to one tile.",
            "that one too: the model `released` looks at it.",
            "Run the pipeline feature_extraction with fit.model=released.",
        )
    if not np.isfinite(sites.whole).all():
        raise InputError("NaN or Inf in the shrunk windows' features.", "finite numbers.", "Embed those sites again.")
    return sites.target, sites.whole


FORMAT = "1"
KIND = "released_model"
"""The text by which a file says that it holds this model."""

COUNTER = "num_batches_tracked"
"""Kept by torch's batch norms, read by none of ours: their momentum is fixed."""


@dataclass(frozen=True)
class ReleasedModel:
    """A fitted network: its `weights` by name, with the running means of the batch norms."""

    weights: Tensors
    shape: ReleasedShape
    settings: ReleasedSettings

    @classmethod
    def of(cls, network: ReleasedNetwork, shape: ReleasedShape, settings: ReleasedSettings) -> ReleasedModel:
        """Return the model of a trained network."""
        state = network.state_dict().items()
        weights = {name: tensor.cpu().numpy() for name, tensor in state if not name.endswith(COUNTER)}
        return cls(weights, shape, settings)

    def network(self) -> ReleasedNetwork:
        """Return the network, ready to predict."""
        import torch

        network = ReleasedNetwork(self.shape)
        counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(COUNTER)}
        network.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in self.weights.items()} | counters)
        return network.eval()

    def to_tensors(self) -> Tensors:
        """Return all arrays by name."""
        return dict(self.weights)

    def metadata(self) -> dict[str, str]:
        """Return what is no array, as texts."""
        sizes = json.dumps(vars(self.shape))
        return {KIND: FORMAT, "sizes": sizes, "settings": self.settings.model_dump_json()}

    @classmethod
    def from_tensors(cls, tensors: Tensors, metadata: dict[str, str]) -> ReleasedModel:
        """Return the model of `to_tensors()` and `metadata()`.

        Raises InputError if a tensor is missing, unknown, of the wrong shape or not finite, or the format is another.
        """
        if metadata.get(KIND) != FORMAT:
            found = metadata.get(KIND)
            raise InputError(
                f"a model of format {found!r}.", f"a `released` model of format {FORMAT}.", "Fit the model again."
            )
        shape = ReleasedShape(**json.loads(metadata["sizes"]))
        check_tensors(tensors, _expected_shapes(shape))
        return cls(tensors, shape, ReleasedSettings.model_validate_json(metadata["settings"]))


def _expected_shapes(shape: ReleasedShape) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        state = ReleasedNetwork(shape).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}


FEWEST_SPOTS = 2
N_REPORTS = 20

Log = Callable[[str], None]


@dataclass(frozen=True)
class FittedReleased:
    """The model, and the log: one row per epoch."""

    model: ReleasedModel
    log: list[dict[str, Any]]


class _SpotTensors(NamedTuple):
    """All visible spots, on the device once."""

    target: Tensor  # (spot, feature)
    whole: Tensor  # (spot, feature)
    expression: Tensor  # (spot, gene)


def fit_released(
    target_section: TrainingSection,
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
    if len(target_section.measured) < FEWEST_SPOTS:
        raise InputError(f"{len(target_section.measured)} visible spots.", "at least 2.", "Hide fewer spots.")
    target, whole = tile_and_window_features(target_section.measured.sites)
    shape = ReleasedShape(target.shape[1], target_section.measured.expression.shape[1])
    # on busy cores a second thread cost twice the time
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        data = _SpotTensors(*(_on(machine, part) for part in (target, whole, target_section.measured.expression)))
        with seeded(seed, machine.device):
            network = ReleasedNetwork(shape).to(machine.device)
            training = TrainingState(network, torch.optim.Adam(network.parameters(), fused=True))
            arrays = {name: part.cpu().numpy() for name, part in data._asdict().items()}
            key = input_fingerprint(arrays, (settings,), machine, seed)
            keeper = Keeper(checkpoints or NoCheckpoints(), "released", key)
            rows = _train(training, data, settings, machine, keeper, log or (lambda _: None))
    return FittedReleased(ReleasedModel.of(network, shape, settings), rows)


def _on(machine: Machine, values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(machine.device)


def _train(
    training: TrainingState[ReleasedNetwork],
    data: _SpotTensors,
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
        loss = _epoch(training, data, settings, machine)
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
    training: TrainingState[ReleasedNetwork], data: _SpotTensors, settings: ReleasedSettings, machine: Machine
) -> Tensor:
    """Take a step per chunk; return the mean squared error over all spots, each as it was when its chunk came."""
    training.network.train()
    n_spots = len(data.expression)
    total = torch.zeros((), device=machine.device)
    for rows in chunks(n_spots, settings.chunk):
        target, whole, truth = (part[rows] for part in data)
        with machine.autocast():
            predicted = training.network(target, whole)
        loss = torch.nn.functional.mse_loss(predicted.float(), truth)
        training.optimizer.zero_grad()
        loss.backward()
        training.step(released_learning_rate(training.epoch, settings))
        total += loss.detach() * len(truth)
    return total / n_spots


def _is_finite(network: ReleasedNetwork, loss: Tensor) -> bool:
    # once per epoch: a step that overflows leaves its mark in the weights, and a look at every step would halt the GPU
    marks = [loss, *(tensor.sum() for tensor in network.state_dict().values())]
    return bool(torch.isfinite(torch.stack([mark.float() for mark in marks])).all())


@torch.no_grad()
def predict_released(model: ReleasedModel, sites: SiteSource, compute: ComputeSettings) -> NDArray[np.float32]:
    """Return (site, gene) log1p of counts per 10 000, from the pictures alone; none is below 0."""
    done = [np.empty((0, model.shape.n_genes), np.float32)]
    with computing(compute) as machine:
        network = model.network().to(machine.device)
        for part in iter_chunks(sites, CHUNK):
            image_features = tile_and_window_features(part)
            _check_features(model, image_features[0])
            with machine.autocast():
                predicted = network(*(torch.from_numpy(picture).to(machine.device) for picture in image_features))
            done.append(predicted.float().cpu().numpy())
    return np.concatenate(done)


def _check_features(model: ReleasedModel, target: NDArray[np.float32]) -> None:
    expected, found = model.shape.n_features, target.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} features per tile.",
            f"{expected} features, as the model was fitted with.",
            "Embed the sites with the model's own backbone.",
        )

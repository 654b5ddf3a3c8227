"""Training of the networks, one per fold: losses, schedule, data of a fold, training loop, resuming."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from spamcaf import __version__
from spamcaf.compute import Machine, seeded
from spamcaf.model.data import (
    PooledSections,
    Projection,
    SiteTensors,
    SpotTensors,
    fit_projection,
    neighbours_same_section,
    select_visible,
)
from spamcaf.model.network import SpamcafNetwork, SpamcafOutput, SpamcafShape
from spamcaf.model.programs import Programs
from spamcaf.parameters import FitSettings, NetworkSettings
from spamcaf.provenance import configuration_hash


@dataclass(frozen=True)
class Checkpoint:
    """A state of a training: arrays by name, and `record`, plain data."""

    tensors: dict[str, NDArray[Any]]
    record: dict[str, Any]


class Checkpoints(Protocol):
    """A store of checkpoints by name, each with the key of everything that its training depends on."""

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return what is stored under `name`; None where there is nothing sound, or its key is another."""

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Store under `name`, replacing what was there, wholly or not at all."""

    def clear(self) -> None:
        """Remove all of them."""


class NoCheckpoints:
    """Keeps nothing."""

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return None."""
        return None

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""


def fingerprint(arrays: Mapping[str, NDArray[Any]], facts: Iterable[object]) -> str:
    """Return a hash of the content of arrays, by name, and of the texts of `facts`."""
    digest = hashlib.sha256("\n".join(map(str, facts)).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


Tensors = dict[str, NDArray[Any]]

Network = TypeVar("Network", bound=nn.Module)

NETWORK, OPTIMIZER, RANDOM_CPU, RANDOM_CUDA = "network.", "optimizer.", "random.cpu", "random.cuda"


@dataclass
class TrainingState(Generic[Network]):
    """A network and its optimiser; `epoch` whole epochs are done, and all losses were finite or it has stopped."""

    network: Network
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    is_finite: bool = True

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.network.parameters()).device

    def step(self, rate: float) -> None:
        """Let the optimiser take a step at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the network's weights."""
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def to_tensors(self) -> Tensors:
        """Return weights, the optimiser's state and torch's randomness, by name."""
        return {name: tensor.cpu().numpy() for name, tensor in self._named()}

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.network.state_dict().items():
            yield NETWORK + name, tensor
        for name, parameter in self.network.named_parameters():
            for part, tensor in self.optimizer.state[parameter].items():
                yield f"{OPTIMIZER}{name}.{part}", tensor
        yield RANDOM_CPU, torch.get_rng_state()
        if self.device.type == "cuda":
            yield RANDOM_CUDA, torch.cuda.get_rng_state(self.device)

    def restore(self, tensors: Tensors, epoch: int, *, is_finite: bool) -> None:
        """Go back to what `to_tensors()` gave after `epoch` epochs, torch's randomness included."""
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


Rows = list[dict[str, Any]]


def input_fingerprint(
    arrays: Mapping[str, NDArray[Any]], settings: tuple[BaseModel, ...], machine: Machine, seed: int
) -> str:
    """Return the hash of all that decides over weights: what is read, every setting, the seed, and where it runs."""
    where = (machine.device.type, machine.use_bf16, torch.get_num_threads(), torch.__version__)
    return fingerprint(arrays, (__version__, configuration_hash(*settings), *where, seed))


@dataclass(frozen=True)
class Keeper:
    """Keeps one training, with a row of its log per epoch, under a name and a key."""

    checkpoints: Checkpoints
    name: str
    key: str

    def resume(self, training: TrainingState[Any]) -> Rows:
        """Take `training` to where it was kept last, if it was; return its log up to there."""
        found = self.checkpoints.load(self.name, self.key)
        if found is None:
            return []
        rows: Rows = found.record["log"]
        training.restore(found.tensors, len(rows), is_finite=found.record["is_finite"])
        return rows

    def keep(self, training: TrainingState[Any], rows: Rows) -> None:
        """Keep `training` and its log as they are now."""
        record = {"log": rows, "is_finite": training.is_finite}
        self.checkpoints.save(self.name, self.key, Checkpoint(training.to_tensors(), record))


class Losses(NamedTuple):
    """The weighted sum and its four parts, scalars."""

    total: Tensor
    parts: tuple[Tensor, ...]


def program_loss(predicted: Tensor, truth: Tensor, loss_weights: Tensor, pearson_weight: float) -> Tensor:
    """Return the squared error plus `pearson_weight` x (1 - Pearson), averaged over programs by `loss_weights`.

    `predicted` and `truth` are (spot, program), `loss_weights` (program,) sums to 1. Pearson is over the spots given.
    """
    squared = (predicted - truth).square().mean(0)
    return loss_weights @ (squared + pearson_weight * (1 - _pearson(predicted, truth)))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    # The floor keeps the gradient finite where a program is predicted as constant.
    return (a * b).sum(0) / (a.square().sum(0) * b.square().sum(0) + 1e-6).sqrt()


def spamcaf_losses(
    out: SpamcafOutput, truth: Tensor, loss_weights: Tensor, pearson_weight: float, branch_weights: tuple[float, ...]
) -> Losses:
    """Return L1 to L4, one per head, and their sum weighted by `branch_weights`."""
    parts = tuple(program_loss(head.float(), truth, loss_weights, pearson_weight) for head in out)
    total = torch.stack([weight * part for weight, part in zip(branch_weights, parts, strict=True)]).sum()
    return Losses(total, parts)


@dataclass(frozen=True)
class FoldData:
    """What one fold learns from: all visible spots, which of them to learn from, and how much each program matters.

    `sections` are the spots of each section (spot,). What a spot is shown, its neighbours and the section around it,
    is of its own section.
    """

    spots: SpotTensors
    sections: tuple[Tensor, ...]
    candidates: Tensor  # (spot, candidate) nearest spots that are learned from, never the spot itself
    is_near: Tensor  # (spot, candidate) whether a candidate is of the spot's section
    is_validation: Tensor  # (spot,) validation
    loss_weights: Tensor  # (program,) sums to 1
    n_context: int
    machine: Machine

    @classmethod
    def of(
        cls,
        spots: SpotTensors,
        section: NDArray[np.int64],
        xy_um: NDArray[np.float64],
        is_validation: NDArray[np.bool_],
        loss_weights: Tensor,
        n_context: int,
        machine: Machine,
    ) -> FoldData:
        """Return the lesson of the fold whose validation spots are `is_validation` (spot,)."""
        # Four times the context is enough to find it among candidates of which most are hidden.
        candidates, is_near = neighbours_same_section(xy_um, section, np.flatnonzero(~is_validation), 4 * n_context)
        sections = [np.flatnonzero(section == number) for number in np.unique(section)]
        on = machine.device
        return cls(
            spots,
            tuple(torch.from_numpy(rows).to(on) for rows in sections),
            torch.from_numpy(candidates).to(on),
            torch.from_numpy(is_near).to(on),
            torch.from_numpy(is_validation).to(on),
            loss_weights,
            n_context,
            machine,
        )

    @property
    def train(self) -> tuple[Tensor, ...]:
        """The spots to learn from, section by section; a section that is held out whole has none."""
        return tuple(rows[~self.is_validation[rows]] for rows in self.sections)

    def answer(
        self, network: SpamcafNetwork, rows: Tensor, is_visible: Tensor, without_context: bool, section: Tensor
    ) -> SpamcafOutput:
        """Return the network's output for spots `rows` of one section.

        Their context may be the train spots that are `is_visible` (spot,); the global branch is shown the spots
        `section`. Blind: no context and no positions, as on a section that was never measured.
        """
        seen = is_visible[self.candidates[rows]] & self.is_near[rows] & (not without_context)
        index, seen = select_visible(self.candidates[rows], seen, self.n_context)
        spots = self.spots.drop_context() if without_context else self.spots
        with self.machine.autocast():
            return network(spots.network_input(spots.sites, rows, index, seen, section))

    @torch.no_grad()
    def validation_scores(self, network: SpamcafNetwork, without_context: bool) -> Tensor:
        """Return the fusion head's scores (validation, program), all train spots visible unless blind."""
        network.eval()
        scores = torch.empty_like(self.spots.scores)
        for section in self.sections:
            rows = section[self.is_validation[section]]
            if len(rows):
                scores[rows] = self.answer(network, rows, ~self.is_validation, without_context, section).fusion.float()
        return scores[self.is_validation]


AfterEpoch = Callable[[list[float]], None]
"""Is given the epoch's mean total, L1, L2, L3 and L4."""


def begin(network: SpamcafNetwork, fit: FitSettings) -> TrainingState[SpamcafNetwork]:
    """Return the training of `network`, nothing learned yet."""
    return TrainingState(network, torch.optim.AdamW(network.parameters(), weight_decay=fit.weight_decay, fused=True))


def train_fold(
    training: TrainingState[SpamcafNetwork], data: FoldData, fit: FitSettings, after_epoch: AfterEpoch
) -> None:
    """Train from where `training` stands to the last epoch, in place.

    At the first epoch with a loss or gradient that is not finite, training stops with the weights of the epoch before.
    The last weights are kept, never the best ones on the validation fold: that fold decides the mixing weight and must
    not have been chosen on.
    """
    train = data.train
    n_steps = sum(_n_batches(len(rows), fit.batch) for rows in train if len(rows))
    while training.is_finite and training.epoch < fit.epochs:
        good = training.weights()
        means = _epoch(training, data, train, fit, n_steps)
        if not all(math.isfinite(mean) for mean in means):
            training.network.load_state_dict(good)
            training.is_finite = False
            return
        training.epoch += 1
        *losses, _norm = means
        after_epoch(losses)


def _epoch(
    training: TrainingState[SpamcafNetwork], data: FoldData, train: tuple[Tensor, ...], fit: FitSettings, n_steps: int
) -> list[float]:
    """Take a step per batch; return the means of total, L1 to L4, and of the gradient's norm.

    They are read once, at the end: a look at every step would halt a GPU. A step that is not finite leaves its mark in
    the means.
    """
    training.network.train()
    marks = []
    for step, (number, rows) in enumerate(_batches(train, fit.batch), start=training.epoch * n_steps):
        losses = step_losses(training.network, data, number, rows, fit)
        training.optimizer.zero_grad()
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(training.network.parameters(), fit.clip_norm)
        training.step(learning_rate_at(step, fit.epochs * n_steps, fit))
        marks.append(torch.stack([losses.total, *losses.parts, norm]).detach())
    return torch.stack(marks).mean(0).tolist()


def learning_rate_at(step: int, n_steps: int, fit: FitSettings) -> float:
    """Return the learning rate of a step: a linear rise to the peak, then a cosine towards 0."""
    warmup = max(1, round(fit.warmup_share * n_steps))
    if step < warmup:
        return fit.learning_rate * (step + 1) / warmup
    return fit.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def _batches(train: tuple[Tensor, ...], batch: int) -> list[tuple[int, Tensor]]:
    """Return section and spots of each batch, in random order; a batch is of one section."""
    batches = [
        (number, rows)
        for number, spots in enumerate(train)
        # equal parts: a remainder of one spot would have no correlation
        if len(spots)
        for rows in spots[torch.randperm(len(spots), device=spots.device)].chunk(_n_batches(len(spots), batch))
    ]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()] if len(train) > 1 else batches


def _n_batches(n_spots: int, batch: int) -> int:
    return max(1, round(n_spots / batch))


def step_losses(network: SpamcafNetwork, data: FoldData, number: int, rows: Tensor, fit: FitSettings) -> Losses:
    """Return the losses on spots `rows` of section `number`, a random part of the other spots being its context."""
    spots = data.sections[number]
    is_visible = torch.rand(len(data.is_validation), device=rows.device) >= fit.context_dropout
    without_context = bool(torch.rand(()) < fit.transfer_step_share)
    # A part of a large section is enough for its mean, and a step then costs the same on any section.
    section = spots[torch.randperm(len(spots), device=rows.device)[: fit.section_sample]]
    out = data.answer(network, rows, is_visible & ~data.is_validation, without_context, section)
    return spamcaf_losses(out, data.spots.scores[rows], data.loss_weights, fit.pearson_weight, fit.branch_weights)


Array = NDArray[np.float64]
Log = Callable[[str], None]

LOG_COLUMNS = ("fold", "epoch", "loss", "l1", "l2", "l3", "l4", "validation_pcc")
"""Columns of the training log, which has a row per fold and epoch."""


@dataclass(frozen=True)
class FoldPredictions:
    """The networks, one per fold, and what they say of spots that they did not see.

    `within_section` and `new_section` are (spot, program) scores out of fold, among measured spots and without any;
    None where no network was asked for. `log` has one row per fold and epoch.
    """

    projection: Projection
    score_scale: Array
    networks: tuple[Tensors, ...]
    within_section: Array | None
    new_section: Array | None
    log: list[dict[str, Any]]


class FoldTrainer:
    """Teaches the networks of all folds, from where `checkpoints` say that an earlier attempt was cut off."""

    def __init__(
        self,
        pooled: PooledSections,
        programs: Programs,
        scores: Array,
        fit: FitSettings,
        network: NetworkSettings,
        machine: Machine,
        seed: int,
        say: Log,
        checkpoints: Checkpoints,
    ) -> None:
        self.pooled, self.programs, self.fit, self.network = pooled, programs, fit, network
        self.machine, self.seed, self.say, self.checkpoints = machine, seed, say, checkpoints
        centre = _by_section(pooled, pooled.sites.neighbours.mean(axis=1))
        tiles = (pooled.sites.neighbours - centre[:, None]).reshape(-1, centre.shape[-1])
        self.projection: Projection = fit_projection(tiles, network.image_components)
        self.score_scale: Array = np.maximum(scores.std(axis=0), np.finfo(np.float32).tiny)
        origin = _by_section(pooled, pooled.sites.xy_um)
        view = SiteTensors.of(pooled.sites, centre, origin, self.projection, machine.device)
        self.spots = SpotTensors(view, self._tensor(scores / self.score_scale))
        loss_weights = (self.score_scale * programs.signal_fraction) ** 2
        self.loss_weights = self._tensor(loss_weights / loss_weights.sum())
        self.log: list[dict[str, Any]] = []
        self.key: str = self._key()

    def _key(self) -> str:
        arrays = {
            **{f"pool.{name}": getattr(self.pooled, name) for name in ("section", "folds", "expression")},
            **{f"programs.{name}": value for name, value in vars(self.programs).items()},
            **{f"sites.{name}": tensor.cpu().numpy() for name, tensor in vars(self.spots.sites).items()},
            "xy_um": self.pooled.sites.xy_um,
            "score_scale": self.score_scale,
            "scores": self.spots.scores.cpu().numpy(),
        }
        return input_fingerprint(arrays, (self.fit, self.network), self.machine, self.seed)

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.machine.device)

    def fit_folds(self) -> FoldPredictions:
        """Train the networks, fold by fold."""
        if not self.fit.use_network:
            return FoldPredictions(self.projection, self.score_scale, (), None, None, [])
        networks: list[Tensors] = []
        within_section, new_section = (np.empty((len(self.pooled), len(self.score_scale))) for _ in range(2))
        for fold in np.unique(self.pooled.folds):
            is_validation = self.pooled.folds == fold
            trained, data = self._train_one(int(fold), is_validation)
            for scores, without_context in ((within_section, False), (new_section, True)):
                scores[is_validation] = self._validation_scores(trained, data, without_context=without_context)
            networks.append({name: tensor.cpu().numpy() for name, tensor in trained.state_dict().items()})
        return FoldPredictions(
            self.projection, self.score_scale, tuple(networks), within_section, new_section, self.log
        )

    def _train_one(self, fold: int, is_validation: NDArray[np.bool_]) -> tuple[SpamcafNetwork, FoldData]:
        section, xy_um = self.pooled.section, self.pooled.sites.xy_um
        data = FoldData.of(
            self.spots, section, xy_um, is_validation, self.loss_weights, self.network.n_context, self.machine
        )
        truth = self.pooled.expression[is_validation]
        shape = network_shape(len(self.projection.axes), len(self.score_scale), self.network)

        def after_epoch(losses: list[float]) -> None:
            predicted = self.programs.decode(self._validation_scores(network, data, without_context=False))
            row = (fold, training.epoch - 1, *losses, mean_gene_pearson(truth, predicted))
            rows.append(dict(zip(LOG_COLUMNS, row, strict=True)))
            if training.epoch % self.fit.checkpoint_epochs == 0 and training.epoch < self.fit.epochs:
                keeper.keep(training, rows)

        keeper = Keeper(self.checkpoints, f"fold_{fold}", self.key)
        fold_seed = int(np.random.SeedSequence((self.seed, fold)).generate_state(1)[0])
        with seeded(fold_seed, self.machine.device):
            network = SpamcafNetwork(shape).to(self.machine.device)
            training = begin(network, self.fit)
            rows = self._resumed(fold, keeper, training)
            was_done = training.epoch == self.fit.epochs or not training.is_finite
            train_fold(training, data, self.fit, after_epoch)
            if not was_done:
                keeper.keep(training, rows)
        self._report(fold, rows, is_finite=training.is_finite)
        self.log += rows
        return network, data

    def _resumed(self, fold: int, keeper: Keeper, training: TrainingState[SpamcafNetwork]) -> Rows:
        rows = keeper.resume(training)
        if rows or not training.is_finite:
            self.say(f"fold {fold}: goes on after epoch {len(rows)} of {self.fit.epochs}")
        return rows

    def _report(self, fold: int, rows: Rows, *, is_finite: bool) -> None:
        if not is_finite:
            self.say(f"fold {fold}: loss or gradient not finite in epoch {len(rows) + 1}, kept the weights before it")
        if rows:
            self.say(f"fold {fold}: loss {rows[-1]['loss']:.3f}, validation Pearson {rows[-1]['validation_pcc']:.3f}")

    def _validation_scores(self, network: SpamcafNetwork, data: FoldData, *, without_context: bool) -> Array:
        return data.validation_scores(network, without_context).cpu().numpy().astype(np.float64) * self.score_scale


def network_shape(n_components: int, n_programs: int, network: NetworkSettings) -> SpamcafShape:
    """Return the network's shape from the data's sizes and the settings."""
    return SpamcafShape(
        n_components=n_components,
        n_programs=n_programs,
        width=network.width,
        heads=network.heads,
        depth=network.depth,
        dropout=network.dropout,
        n_summary=network.n_summary,
        one_token=network.one_token,
    )


def mean_gene_pearson(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """Return the mean over genes of Pearson's correlation over spots, both (spot, gene); 0 where a gene is constant."""
    a, b = truth - truth.mean(axis=0), predicted - predicted.mean(axis=0)
    norm = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    return float(np.divide((a * b).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0).mean())


def _by_section(pooled: PooledSections, values: NDArray[Any]) -> NDArray[Any]:
    """Return (spot, value) the mean of `values` (spot, value) over each spot's section."""
    means = np.empty_like(values)
    for number in np.unique(pooled.section):
        rows = pooled.section == number
        means[rows] = values[rows].mean(axis=0)
    return means

"""Training of the networks, one per cross-validation fold: losses, schedule, data of a fold, loop, and resuming.

A fold's network learns the program scores of the spots outside the fold and then predicts those in it. A finished
fold is stored, so that a killed fit goes on with the next one.

The losses are taken on program scores, not on genes: the decoder is linear with fixed orthonormal loadings, so the
squared error of the scaled genes is that of the scores, summed over programs, plus what no score can change.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from spamcaf import __version__
from spamcaf.compute import Machine, seeded
from spamcaf.histology.backbone import LastBlocks
from spamcaf.model.data import (
    FeaturePCA,
    PooledSections,
    SiteTensors,
    SpotTensors,
    neighbours_same_section,
    select_visible,
    spots_of_pca,
)
from spamcaf.model.finetune import FineTunedNetwork
from spamcaf.model.network import SpamcafNetwork, SpamcafOutput, SpamcafShape
from spamcaf.model.programs import Programs
from spamcaf.parameters import FitSettings, NetworkSettings
from spamcaf.progress import seconds_in_words
from spamcaf.provenance import configuration_hash

logger = logging.getLogger(__name__)

LOG_COLUMNS = ("fold", "epoch", "loss", "l1", "l2", "l3", "l4", "validation_pcc")
"""Columns of the training log, which has a row per fold and epoch; the last is empty in most."""

VALIDATION_EPOCHS = 5
"""Epochs from one line of the validation curve to the next; it decides nothing."""
LEAST_SCALE = 1e-3
"""Unit of scores that hardly vary, such as the log depth of spots of one depth; others are near 1."""

Tensors = dict[str, NDArray[Any]]
LogRows = list[dict[str, Any]]


class Losses(NamedTuple):
    """The weighted sum and its four parts, scalars."""

    total: Tensor
    parts: tuple[Tensor, ...]


def program_loss(predicted: Tensor, truth: Tensor, loss_weights: Tensor, pearson_weight: float) -> Tensor:
    """Return squared error plus `pearson_weight` x (1 - Pearson over spots), averaged over programs.

    Parameters
    ----------
    predicted, truth : (spot, program)
    loss_weights : (program,)
        Weights of the average; they sum to 1.
    pearson_weight : float
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
    """The spots of a fold on the device. Context and summary of a spot are always of its own section."""

    spots: SpotTensors  # all visible spots, those of the validation fold included
    sections: tuple[Tensor, ...]  # the spots (spot,) of each section
    candidates: Tensor  # (spot, candidate) nearest spots outside the fold, never the spot itself
    is_near: Tensor  # (spot, candidate) whether a candidate is of the spot's section
    is_validation: Tensor  # (spot,)
    loss_weights: Tensor  # (program,)
    n_context: int
    machine: Machine

    @classmethod
    def of_fold(
        cls,
        spots: SpotTensors,
        section: NDArray[np.int64],
        xy_um: NDArray[np.float64],
        is_validation: NDArray[np.bool_],
        loss_weights: Tensor,
        n_context: int,
        machine: Machine,
    ) -> FoldData:
        """Return the data of the fold whose validation spots are `is_validation` (spot,)."""
        # Context dropout hides a random half: four times the context holds enough visible spots nearly always.
        allowed = np.flatnonzero(~is_validation)
        candidates, is_near = neighbours_same_section(xy_um, section, allowed, 4 * n_context)
        rows = [np.flatnonzero(section == number) for number in np.unique(section)]
        sections = tuple(torch.from_numpy(r).to(machine.device) for r in rows)
        near, of_section, validation = (
            torch.from_numpy(array).to(machine.device) for array in (candidates, is_near, is_validation)
        )
        return cls(spots, sections, near, of_section, validation, loss_weights, n_context, machine)

    @property
    def train(self) -> tuple[Tensor, ...]:
        """The training spots of each section; a section that is held out whole has none."""
        return tuple(rows[~self.is_validation[rows]] for rows in self.sections)

    def forward(
        self, network: SpamcafNetwork, rows: Tensor, is_visible: Tensor, *, without_context: bool, section: Tensor
    ) -> SpamcafOutput:
        """Return the network's output for spots of one section.

        Parameters
        ----------
        network : SpamcafNetwork
        rows : (batch,) int
        is_visible : (spot,) bool
            Spots that may be context, of those outside the fold.
        without_context : bool
            Use neither context nor positions, as on a section that was never measured.
        section : (spot,) int
            Spots that the global branch summarises.
        """
        seen = is_visible[self.candidates[rows]] & self.is_near[rows] & (not without_context)
        index, seen = select_visible(self.candidates[rows], seen, self.n_context)
        spots = self.spots.drop_context() if without_context else self.spots
        with self.machine.autocast():
            return network(spots.network_input(spots.sites, rows, index, seen, section))

    @torch.no_grad()
    def validation_scores(self, network: SpamcafNetwork, *, without_context: bool) -> Tensor:
        """Return the fusion head's scores (validation spot, program), all training spots visible."""
        network.eval()
        scores = torch.empty_like(self.spots.scores)
        for section in self.sections:
            rows = section[self.is_validation[section]]
            if len(rows):
                visible = ~self.is_validation
                out = self.forward(network, rows, visible, without_context=without_context, section=section)
                scores[rows] = out.fusion.float()
        return scores[self.is_validation]


def network_shape(n_components: int, n_programs: int, network: NetworkSettings) -> SpamcafShape:
    """Return the network's shape from the data's sizes and the settings."""
    settings = network.model_dump(exclude={"image_components", "n_context"})
    return SpamcafShape(n_components=n_components, n_programs=n_programs, **settings)


def make_network(shape: SpamcafShape, last_blocks: LastBlocks | None, pca: FeaturePCA) -> SpamcafNetwork:
    """Return a network before training; with the backbone's last blocks in front where they are given."""
    return SpamcafNetwork(shape) if last_blocks is None else FineTunedNetwork(shape, last_blocks, pca)


def make_optimizer(network: SpamcafNetwork, fit: FitSettings) -> torch.optim.Optimizer:
    """Return AdamW over all parameters; the learning rate is set at each step, of the backbone's blocks a share."""
    is_last = {id(parameter) for name, parameter in network.named_parameters() if name.startswith("last_blocks.")}
    own = [parameter for parameter in network.parameters() if id(parameter) not in is_last]
    groups: list[dict[str, Any]] = [{"params": own, "share": 1.0}]
    if is_last:
        rest = [parameter for parameter in network.parameters() if id(parameter) in is_last]
        groups.append({"params": rest, "share": fit.finetune_rate})
    return torch.optim.AdamW(groups, weight_decay=fit.weight_decay, fused=True)


def learning_rate_at(step: int, n_steps: int, fit: FitSettings) -> float:
    """Return the learning rate of a step: a linear rise to the peak, then a cosine towards 0."""
    warmup = max(1, round(fit.warmup_share * n_steps))
    if step < warmup:
        return fit.learning_rate * (step + 1) / warmup
    return fit.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def train_fold(
    network: SpamcafNetwork, data: FoldData, fit: FitSettings, after_epoch: Callable[[list[float]], None]
) -> bool:
    """Train in place; return False where it stopped early, at the first epoch that is not finite.

    It then has the weights of the epoch before. The last weights are kept, never the best ones on the validation fold:
    that fold decides the stacking weight and must not have been chosen on.

    Parameters
    ----------
    network : SpamcafNetwork
    data : FoldData
    fit : FitSettings
    after_epoch : callable
        Is given the epoch's mean total loss, L1, L2, L3 and L4.
    """
    train, optimizer = data.train, make_optimizer(network, fit)
    n_steps = sum(_n_batches(len(rows), fit.batch) for rows in train if len(rows))
    for epoch in range(fit.epochs):
        if isinstance(network, FineTunedNetwork):
            network.is_tuned = epoch >= fit.epochs - fit.finetune_epochs
        before = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        *losses, norm = _train_epoch(network, optimizer, data, train, fit, range(epoch * n_steps, fit.epochs * n_steps))
        if not all(math.isfinite(mean) for mean in (*losses, norm)):
            network.load_state_dict(before)
            return False
        after_epoch(losses)
    return True


def _train_epoch(
    network: SpamcafNetwork,
    optimizer: torch.optim.Optimizer,
    data: FoldData,
    train: tuple[Tensor, ...],
    fit: FitSettings,
    steps: range,
) -> list[float]:
    """Take a step per batch, of the `steps` still to go; return the means of total, L1 to L4, and the gradient's norm.

    The means are read once, at the end: reading a value at every step would halt a GPU. A step that is not finite makes
    a mean that is not.
    """
    network.train()
    rows_of_log = []
    for step, (number, rows) in zip(steps, _batches(train, fit.batch), strict=False):
        losses = step_losses(network, data, number, rows, fit)
        optimizer.zero_grad()
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), fit.clip_norm)
        take_step(optimizer, learning_rate_at(step, steps.stop, fit))
        rows_of_log.append(torch.stack([losses.total, *losses.parts, norm]).detach())
    return torch.stack(rows_of_log).mean(0).tolist()


def take_step(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the optimiser take one step at a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("share", 1.0)
    optimizer.step()


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
    """Return the losses on spots `rows` of section `number`.

    Context dropout: a random part of the other training spots is visible. A share of the steps has no context at all,
    as on a new section.
    """
    spots = data.sections[number]
    is_visible = torch.rand(len(data.is_validation), device=rows.device) >= fit.context_dropout
    without_context = bool(torch.rand(()) < fit.transfer_step_share)
    # A part of a large section is enough for its mean, and a step then costs the same on any section.
    section = spots[torch.randperm(len(spots), device=rows.device)[: fit.section_sample]]
    visible = is_visible & ~data.is_validation
    out = data.forward(network, rows, visible, without_context=without_context, section=section)
    return spamcaf_losses(out, data.spots.scores[rows], data.loss_weights, fit.pearson_weight, fit.branch_weights)


@dataclass(frozen=True)
class Checkpoint:
    """A stored part of a fit: arrays by name, and `record`, plain data."""

    tensors: Tensors
    record: dict[str, Any]


class Checkpoints(Protocol):
    """A store of checkpoints by name, each with the fingerprint of everything that it depends on."""

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return what is stored under `name`; None where nothing intact is, or its fingerprint is another."""

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Store under `name`, replacing what was there, wholly or not at all."""

    def clear(self) -> None:
        """Remove all of them."""


def input_fingerprint(
    arrays: Mapping[str, NDArray[Any]], settings: Iterable[BaseModel], machine: Machine, seed: int
) -> str:
    """Return a hash of all that decides over weights: arrays by name, every setting, the seed, and where it runs."""
    where = (machine.device.type, machine.use_bf16, torch.get_num_threads(), torch.__version__)
    facts = (__version__, configuration_hash(*settings), *where, seed)
    digest = hashlib.sha256("\n".join(map(str, facts)).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FoldPredictions:
    """The networks, one per fold, and their predictions of the spots in their fold, None without a network."""

    network_pca: FeaturePCA  # from backbone features to the components that the networks read
    score_scale: NDArray[np.float64]  # (program,) unit of the networks' scores
    networks: tuple[Tensors, ...]  # weights by name
    within_section: NDArray[np.float64] | None  # (spot, program) scores out of fold, with measured spots around
    new_section: NDArray[np.float64] | None  # (spot, program) the same without any
    log: LogRows  # rows of `LOG_COLUMNS`


class FoldTrainer:
    """Trains the network of each fold, all data on the device once, and takes finished folds from `checkpoints`."""

    def __init__(
        self,
        pooled: PooledSections,
        programs: Programs,
        scores: NDArray[np.float64],
        fit: FitSettings,
        network: NetworkSettings,
        machine: Machine,
        seed: int,
        checkpoints: Checkpoints | None = None,
        last_blocks: LastBlocks | None = None,
    ) -> None:
        self.last_blocks = last_blocks
        self.pooled, self.programs, self.fit, self.network = pooled, programs, fit, network
        self.machine, self.seed, self.checkpoints = machine, seed, checkpoints
        chosen = spots_of_pca(len(pooled))
        mean = pooled.mean_tile(chosen)
        tiles = (pooled.sites.at(chosen).neighbours - mean[:, None]).reshape(-1, mean.shape[-1])
        self.network_pca = FeaturePCA.fit(tiles, network.image_components)
        self.score_scale: NDArray[np.float64] = np.maximum(scores.std(axis=0), LEAST_SCALE)
        origin = pooled.section_mean(pooled.sites.xy_um)
        where = (self.network_pca, machine.device)
        sites = SiteTensors.from_sites(
            pooled.sites, pooled.mean_tile(), origin, *where, with_maps=last_blocks is not None
        )
        self.spots = SpotTensors(sites, self._tensor(scores / self.score_scale))
        # In units of gene variance: a score counts by what it adds to the decoded genes.
        norms = np.mean([means.score_norms(programs) for means in pooled.means.values()], axis=0)
        variance = (self.score_scale * norms) ** 2
        self.loss_weights = self._tensor(variance / variance.sum())
        self.key = self._key()

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.machine.device)

    def _key(self) -> str:
        arrays = {
            **{f"pooled.{name}": getattr(self.pooled, name) for name in ("section", "folds", "expression")},
            **{f"programs.{name}": np.asarray(value) for name, value in vars(self.programs).items()},
            **{f"sites.{name}": t.cpu().numpy() for name, t in vars(self.spots.sites).items() if t is not None},
            **(_weights(self.last_blocks) if self.last_blocks else {}),
            "xy_um": self.pooled.sites.xy_um,
            "score_scale": self.score_scale,
            "scores": self.spots.scores.cpu().numpy(),
        }
        return input_fingerprint(arrays, (self.fit, self.network), self.machine, self.seed)

    def fit_folds(self) -> FoldPredictions:
        """Train the networks, fold by fold."""
        if not self.fit.use_network:
            return FoldPredictions(self.network_pca, self.score_scale, (), None, None, [])
        networks: list[Tensors] = []
        log: LogRows = []
        within_section, new_section = (np.empty((len(self.pooled), len(self.score_scale))) for _ in range(2))
        for fold in np.unique(self.pooled.folds).tolist():
            is_validation = self.pooled.folds == fold
            network, data, rows = self._fit_fold(fold, is_validation)
            within_section[is_validation] = self._validation_scores(network, data, without_context=False)
            new_section[is_validation] = self._validation_scores(network, data, without_context=True)
            networks.append(_weights(network))
            log += rows
        return FoldPredictions(self.network_pca, self.score_scale, tuple(networks), within_section, new_section, log)

    def _fit_fold(self, fold: int, is_validation: NDArray[np.bool_]) -> tuple[SpamcafNetwork, FoldData, LogRows]:
        section, xy_um, n_context = self.pooled.section, self.pooled.sites.xy_um, self.network.n_context
        given = (is_validation, self.loss_weights, n_context, self.machine)
        data = FoldData.of_fold(self.spots, section, xy_um, *given)
        fold_seed = int(np.random.SeedSequence((self.seed, fold)).generate_state(1)[0])
        with seeded(fold_seed, self.machine.device):
            shape = network_shape(len(self.network_pca.axes), len(self.score_scale), self.network)
            network = make_network(shape, self.last_blocks, self.network_pca).to(self.machine.device)
            stored = self.checkpoints.load(f"fold_{fold}", self.key) if self.checkpoints else None
            if stored is not None:
                load_weights(network, stored.tensors)
                logger.info("fold %d: trained before, its network is taken from %d epochs", fold, self.fit.epochs)
                return network, data, stored.record["log"]
            rows = self._train(network, data, fold, is_validation)
        if self.checkpoints:
            self.checkpoints.save(f"fold_{fold}", self.key, Checkpoint(_weights(network), {"log": rows}))
        return network, data, rows

    def _train(self, network: SpamcafNetwork, data: FoldData, fold: int, is_validation: NDArray[np.bool_]) -> LogRows:
        rows: LogRows = []
        start, folds = time.perf_counter(), np.unique(self.pooled.folds)
        truth = self.pooled.centred()[is_validation]
        scores = np.zeros((len(self.pooled), len(self.score_scale)))

        def after_epoch(losses: list[float]) -> None:
            pcc = None
            if (len(rows) + 1) % VALIDATION_EPOCHS == 0 or len(rows) + 1 == self.fit.epochs:
                if isinstance(network, FineTunedNetwork):
                    network.is_quick = True
                scores[is_validation] = self._validation_scores(network, data, without_context=False)
                if isinstance(network, FineTunedNetwork):
                    network.is_quick = False
                pcc = mean_gene_pearson(truth, self.pooled.decode(self.programs, scores)[is_validation])
            rows.append(dict(zip(LOG_COLUMNS, (fold, len(rows), *losses, pcc), strict=True)))

        if not train_fold(network, data, self.fit, after_epoch):
            where = f"epoch {len(rows) + 1}, kept the weights before it"
            logger.warning("fold %d: loss or gradient not finite in %s", fold, where)
        if rows:
            pcc = next((f"{row['validation_pcc']:.3f}" for row in reversed(rows) if row["validation_pcc"]), "unknown")
            number, n_left = int((folds <= fold).sum()), int((folds > fold).sum())
            left = f", about {seconds_in_words(n_left * (time.perf_counter() - start))} left" if n_left else ""
            text = "fold %d of %d: loss %.3f, validation Pearson %s%s"
            logger.info(text, number, len(folds), rows[-1]["loss"], pcc, left)
        return rows

    def _validation_scores(
        self, network: SpamcafNetwork, data: FoldData, *, without_context: bool
    ) -> NDArray[np.float64]:
        scores = data.validation_scores(network, without_context=without_context)
        return scores.cpu().numpy().astype(np.float64) * self.score_scale


def _weights(network: torch.nn.Module) -> Tensors:
    return {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}


def load_weights(network: torch.nn.Module, tensors: Tensors) -> None:
    """Set a network's weights from arrays by name."""
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})


def mean_gene_pearson(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> float:
    """Return the mean over genes of Pearson's correlation over spots, both (spot, gene); 0 where a gene is constant."""
    a, b = truth - truth.mean(axis=0), predicted - predicted.mean(axis=0)
    norm = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    return float(np.divide((a * b).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0).mean())

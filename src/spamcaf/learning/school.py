"""Training one network per fold on shared data, all of it on the device once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.compute import Machine, seeded
from spamcaf.learning.checkpoints import Checkpoints
from spamcaf.learning.keeper import Keeper, Rows, training_key
from spamcaf.learning.lesson import Lesson
from spamcaf.learning.pool import Pool
from spamcaf.learning.programs import Programs
from spamcaf.learning.projection import Projection, learn_projection
from spamcaf.learning.state import Tensors, Training
from spamcaf.learning.training import begin, train_fold
from spamcaf.learning.views import SiteView, SpotView
from spamcaf.network.spamcaf import SpamcafNetwork, SpamcafShape
from spamcaf.parameters import FitSettings, NetworkSettings

Array = NDArray[np.float64]
Log = Callable[[str], None]

LOG = ("fold", "epoch", "loss", "l1", "l2", "l3", "l4", "validation_pcc")
"""Columns of the training log, which has a row per fold and epoch."""


@dataclass(frozen=True)
class Taught:
    """The networks, one per fold, and what they say of spots that they did not see.

    `recovery` and `transfer` are (spot, program) scores out of fold, among measured spots and as if there were none;
    None where no network was asked for. `log` has one row per fold and epoch.
    """

    projection: Projection
    score_scale: Array
    networks: tuple[Tensors, ...]
    recovery: Array | None
    transfer: Array | None
    log: list[dict[str, Any]]


class School:
    """Teaches the networks of all folds, from where `checkpoints` say that an earlier attempt was cut off."""

    def __init__(
        self,
        pool: Pool,
        programs: Programs,
        scores: Array,
        fit: FitSettings,
        network: NetworkSettings,
        machine: Machine,
        seed: int,
        say: Log,
        checkpoints: Checkpoints,
    ) -> None:
        self.pool, self.programs, self.fit, self.network = pool, programs, fit, network
        self.machine, self.seed, self.say, self.checkpoints = machine, seed, say, checkpoints
        centre = _by_section(pool, pool.sites.neighbours.mean(axis=1))
        tiles = (pool.sites.neighbours - centre[:, None]).reshape(-1, centre.shape[-1])
        self.projection: Projection = learn_projection(tiles, network.image_components)
        self.score_scale: Array = np.maximum(scores.std(axis=0), np.finfo(np.float32).tiny)
        origin = _by_section(pool, pool.sites.xy_um)
        view = SiteView.of(pool.sites, centre, origin, self.projection, machine.device)
        self.spots = SpotView(view, self._tensor(scores / self.score_scale))
        importance = (self.score_scale * programs.shrink) ** 2
        self.importance = self._tensor(importance / importance.sum())
        self.log: list[dict[str, Any]] = []
        self.key: str = self._key()

    def _key(self) -> str:
        arrays = {
            **{f"pool.{name}": getattr(self.pool, name) for name in ("section", "folds", "expression")},
            **{f"programs.{name}": value for name, value in vars(self.programs).items()},
            **{f"sites.{name}": tensor.cpu().numpy() for name, tensor in vars(self.spots.sites).items()},
            "xy_um": self.pool.sites.xy_um,
            "score_scale": self.score_scale,
            "scores": self.spots.scores.cpu().numpy(),
        }
        return training_key(arrays, (self.fit, self.network), self.machine, self.seed)

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.machine.device)

    def teach(self) -> Taught:
        """Train the networks, fold by fold."""
        if not self.fit.use_network:
            return Taught(self.projection, self.score_scale, (), None, None, [])
        networks: list[Tensors] = []
        recovery, transfer = (np.empty((len(self.pool), len(self.score_scale))) for _ in range(2))
        for fold in np.unique(self.pool.folds):
            is_held = self.pool.folds == fold
            trained, lesson = self._train_one(int(fold), is_held)
            for scores, is_blind in ((recovery, False), (transfer, True)):
                scores[is_held] = self._held_scores(trained, lesson, is_blind=is_blind)
            networks.append({name: tensor.cpu().numpy() for name, tensor in trained.state_dict().items()})
        return Taught(self.projection, self.score_scale, tuple(networks), recovery, transfer, self.log)

    def _train_one(self, fold: int, is_held: NDArray[np.bool_]) -> tuple[SpamcafNetwork, Lesson]:
        section, xy_um = self.pool.section, self.pool.sites.xy_um
        lesson = Lesson.of(self.spots, section, xy_um, is_held, self.importance, self.network.n_context, self.machine)
        truth = self.pool.expression[is_held]
        shape = network_shape(len(self.projection.axes), len(self.score_scale), self.network)

        def after_epoch(losses: list[float]) -> None:
            guess = self.programs.decode(self._held_scores(network, lesson, is_blind=False))
            row = (fold, training.epoch - 1, *losses, mean_gene_pearson(truth, guess))
            rows.append(dict(zip(LOG, row, strict=True)))
            if training.epoch % self.fit.checkpoint_epochs == 0 and training.epoch < self.fit.epochs:
                keeper.keep(training, rows)

        keeper = Keeper(self.checkpoints, f"fold_{fold}", self.key)
        fold_seed = int(np.random.SeedSequence((self.seed, fold)).generate_state(1)[0])
        with seeded(fold_seed, self.machine.device):
            network = SpamcafNetwork(shape).to(self.machine.device)
            training = begin(network, self.fit)
            rows = self._resumed(fold, keeper, training)
            was_done = training.epoch == self.fit.epochs or not training.is_finite
            train_fold(training, lesson, self.fit, after_epoch)
            if not was_done:
                keeper.keep(training, rows)
        self._report(fold, rows, is_finite=training.is_finite)
        self.log += rows
        return network, lesson

    def _resumed(self, fold: int, keeper: Keeper, training: Training[SpamcafNetwork]) -> Rows:
        rows = keeper.resume(training)
        if rows or not training.is_finite:
            self.say(f"fold {fold}: goes on after epoch {len(rows)} of {self.fit.epochs}")
        return rows

    def _report(self, fold: int, rows: Rows, *, is_finite: bool) -> None:
        if not is_finite:
            self.say(f"fold {fold}: loss or gradient not finite in epoch {len(rows) + 1}, kept the weights before it")
        if rows:
            self.say(f"fold {fold}: loss {rows[-1]['loss']:.3f}, validation Pearson {rows[-1]['validation_pcc']:.3f}")

    def _held_scores(self, network: SpamcafNetwork, lesson: Lesson, *, is_blind: bool) -> Array:
        return lesson.held_scores(network, is_blind).cpu().numpy().astype(np.float64) * self.score_scale


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


def mean_gene_pearson(truth: NDArray[np.floating], guess: NDArray[np.floating]) -> float:
    """Return the mean over genes of Pearson's correlation over spots, both (spot, gene); 0 where a gene is constant."""
    a, b = truth - truth.mean(axis=0), guess - guess.mean(axis=0)
    norm = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    return float(np.divide((a * b).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0).mean())


def _by_section(pool: Pool, values: NDArray[Any]) -> NDArray[Any]:
    """Return (spot, value) the mean of `values` (spot, value) over each spot's section."""
    means = np.empty_like(values)
    for number in np.unique(pool.section):
        rows = pool.section == number
        means[rows] = values[rows].mean(axis=0)
    return means

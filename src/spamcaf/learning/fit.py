"""Fitting: programs, Gaussian process, one network per fold, and the mix of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.compute import Machine, computing, seeded
from spamcaf.errors import InputError
from spamcaf.learning.kernels import Kernels, Pictures
from spamcaf.learning.mixing import Mix, gene_noise, mixing_weights
from spamcaf.learning.model import Memory, Mode, SpamcafModel, Tensors, network_shape
from spamcaf.learning.process import Hyperparameters, learn_hyperparameters, out_of_fold
from spamcaf.learning.programs import Programs, learn_programs
from spamcaf.learning.projection import Projection, learn_projection
from spamcaf.learning.training import Lesson, train_fold
from spamcaf.learning.views import SiteView, SpotView
from spamcaf.network.spamcaf import SpamcafNetwork
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.sections.places import Measured

Array = NDArray[np.float64]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """The model, and the log: one row per fold and epoch."""

    model: SpamcafModel
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class _OutOfFold:
    """Scores (spot, program) of each spot by what did not see it, among measured spots and as if there were none."""

    recovery: Array
    transfer: Array


@dataclass(frozen=True)
class _Visible:
    """The visible spots and what was learned of them before any network."""

    measured: Measured
    folds: NDArray[np.integer]
    pitch_um: float
    programs: Programs
    scores: Array  # (spot, program)
    pictures: Pictures


def fit_spamcaf(
    measured: Measured,
    folds: NDArray[np.integer],
    pitch_um: float,
    fit: FitSettings,
    network: NetworkSettings,
    compute: ComputeSettings,
    seed: int,
    log: Log | None = None,
) -> Fitted:
    """Fit the model to the visible spots `measured`; `folds` (spot,) is the fold in which each is validation.

    The same seed gives the same weights on a CPU. `log` is told, line by line, how the fit goes.
    """
    _check(measured, folds)
    say = log or (lambda _: None)
    programs = learn_programs(measured.expression, fit.n_programs)
    visible = _Visible(
        measured, folds, pitch_um, programs, programs.scores(measured.expression), Pictures.of(measured.sites)
    )
    say(f"{len(programs)} gene programs, signal shares {_listed(programs.shrink)}")
    # A step's tensors are small: a second thread saves little, and on busy cores waiting for it costs many times more.
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        school = _School(visible, fit, network, machine, seed, say)
        networks, rows, by_network = school.train()
    recovery = _mode(visible, by_network.recovery, fit, seed, with_space=True)
    transfer = _mode(visible, by_network.transfer, fit, seed, with_space=False)
    say(f"network's share of each program among measured spots: {_listed(recovery.mix.weights)}")
    say(f"network's share of each program on unmeasured sections: {_listed(transfer.mix.weights)}")
    memory = Memory(visible.pictures, visible.scores, measured.depth)
    model = SpamcafModel(
        programs=programs,
        recovery=recovery,
        transfer=transfer,
        projection=school.projection,
        score_scale=school.score_scale,
        networks=networks,
        memory=memory,
        pitch_um=pitch_um,
        fit=fit,
        network=network,
    )
    return Fitted(model, rows)


def _mode(visible: _Visible, by_network: Array, fit: FitSettings, seed: int, *, with_space: bool) -> Mode:
    """Fit the process with or without positions, and its mix with the network's scores out of fold."""
    hyper = _hyperparameters(visible, fit.max_hyper_spots, seed, with_space=with_space)
    gram = _kernels(visible, slice(None), with_space=with_space).gram()
    by_process, variance = out_of_fold(hyper, gram, visible.scores, visible.measured.depth, visible.folds)
    weights = mixing_weights(visible.scores, by_process, by_network, visible.folds)
    mixed = by_process + weights * (by_network - by_process)
    noise = gene_noise(visible.measured.expression, mixed, variance, visible.programs)
    return Mode(hyper, Mix(weights, noise))


def _hyperparameters(visible: _Visible, max_spots: int, seed: int, *, with_space: bool) -> Hyperparameters:
    n = len(visible.scores)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:max_spots])
    gram = _kernels(visible, chosen, with_space=with_space).gram()
    return learn_hyperparameters(gram, visible.scores[chosen], visible.measured.depth[chosen])


def _kernels(visible: _Visible, rows: NDArray[np.intp] | slice, *, with_space: bool) -> Kernels:
    pictures = Pictures(visible.pictures.target[rows], visible.pictures.surround[rows])
    xy_um = visible.measured.sites.xy_um[rows] if with_space else None
    return Kernels.on(pictures, xy_um, visible.pitch_um)


class _School:
    """Trains one network per fold on shared data, all of it on the device once."""

    def __init__(
        self, visible: _Visible, fit: FitSettings, network: NetworkSettings, machine: Machine, seed: int, say: Log
    ) -> None:
        self.visible, self.fit, self.network, self.machine = visible, fit, network, machine
        self.seed, self.say = seed, say
        sites, scores = visible.measured.sites, visible.scores
        tiles = sites.neighbours.reshape(-1, sites.neighbours.shape[-1])
        self.projection: Projection = learn_projection(tiles, network.image_components)
        self.score_scale: Array = np.maximum(scores.std(axis=0), np.finfo(np.float32).tiny)
        view = SiteView.of(sites, sites.xy_um.mean(axis=0), self.projection, machine.device)
        self.spots = SpotView(view, self._tensor(scores / self.score_scale))
        importance = (self.score_scale * visible.programs.shrink) ** 2
        self.importance = self._tensor(importance / importance.sum())

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.machine.device)

    def train(self) -> tuple[tuple[Tensors, ...], list[dict[str, Any]], _OutOfFold]:
        """Return the networks' weights, the log's rows, and the scores out of fold."""
        networks: list[Tensors] = []
        rows: list[dict[str, Any]] = []
        out = _OutOfFold(np.empty_like(self.visible.scores), np.empty_like(self.visible.scores))
        for fold in np.unique(self.visible.folds):
            is_held = self.visible.folds == fold
            trained, lesson = self._train_one(int(fold), is_held, rows)
            for scores, is_blind in ((out.recovery, False), (out.transfer, True)):
                scores[is_held] = self._held_scores(trained, lesson, is_blind=is_blind)
            networks.append({name: tensor.cpu().numpy() for name, tensor in trained.state_dict().items()})
        return tuple(networks), rows, out

    def _train_one(
        self, fold: int, is_held: NDArray[np.bool_], rows: list[dict[str, Any]]
    ) -> tuple[SpamcafNetwork, Lesson]:
        xy_um = self.visible.measured.sites.xy_um
        lesson = Lesson.of(self.spots, xy_um, is_held, self.importance, self.network.n_context, self.machine)
        truth = self.visible.measured.expression[is_held]
        shape = network_shape(len(self.projection.axes), len(self.score_scale), self.network)

        def after_epoch(epoch: int, losses: list[float]) -> None:
            guess = self.visible.programs.decode(self._held_scores(trained, lesson, is_blind=False))
            names = ("loss", "l1", "l2", "l3", "l4")
            rows.append({"fold": fold, "epoch": epoch, **dict(zip(names, losses, strict=True))})
            rows[-1]["validation_pcc"] = mean_gene_pearson(truth, guess)

        fold_seed = int(np.random.SeedSequence((self.seed, fold)).generate_state(1)[0])
        with seeded(fold_seed, self.machine.device):
            trained = SpamcafNetwork(shape).to(self.machine.device)
            is_finite = train_fold(trained, lesson, self.fit, after_epoch)
        self._report(fold, rows, is_finite=is_finite)
        return trained, lesson

    def _report(self, fold: int, rows: list[dict[str, Any]], *, is_finite: bool) -> None:
        done = [row for row in rows if row["fold"] == fold]
        if not is_finite:
            self.say(f"fold {fold}: loss or gradient not finite in epoch {len(done)}, kept the weights before it")
        if done:
            self.say(f"fold {fold}: loss {done[-1]['loss']:.3f}, validation Pearson {done[-1]['validation_pcc']:.3f}")

    def _held_scores(self, network: SpamcafNetwork, lesson: Lesson, *, is_blind: bool) -> Array:
        return lesson.held_scores(network, is_blind).cpu().numpy().astype(np.float64) * self.score_scale


def mean_gene_pearson(truth: NDArray[np.floating], guess: NDArray[np.floating]) -> float:
    """Return the mean over genes of Pearson's correlation over spots, both (spot, gene); 0 where a gene is constant."""
    a, b = truth - truth.mean(axis=0), guess - guess.mean(axis=0)
    norm = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    return float(np.divide((a * b).sum(axis=0), norm, out=np.zeros(len(norm)), where=norm > 0).mean())


def _listed(values: Array) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _check(measured: Measured, folds: NDArray[np.integer]) -> None:
    if len(folds) != len(measured):
        raise InputError(
            f"{len(folds)} folds and {len(measured)} spots.", "a fold per spot.", "Join folds and spots by id."
        )
    if len(np.unique(folds)) < 2:  # noqa: PLR2004
        raise InputError(f"folds {np.unique(folds).tolist()}.", "at least 2 folds.", "Set split.n_folds to 2 or more.")
    for name, values in (("expression", measured.expression), ("target features", measured.sites.target)):
        if not np.isfinite(values).all():
            raise InputError(f"NaN or Inf in {name}.", "finite numbers.", "Drop those spots before the fit.")

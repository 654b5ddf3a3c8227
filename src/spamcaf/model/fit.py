"""Fitting SpaMCAF: programs, Gaussian process, one network per fold, and their stacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.compute import computing
from spamcaf.model.data import HOME, Memory, Pool, Visible
from spamcaf.model.fitted import Mode, SpamcafModel
from spamcaf.model.gaussian_process import Hyperparameters, Kernels, learn_hyperparameters, out_of_fold
from spamcaf.model.mixing import Mix, gene_noise, mixing_weights
from spamcaf.model.programs import Programs, learn_programs
from spamcaf.model.training import Checkpoints, NoCheckpoints, School
from spamcaf.model.vecchia import out_of_fold_of_many
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings

Array = NDArray[np.float64]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Fitted:
    """The model, and the log: one row per fold and epoch."""

    model: SpamcafModel
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class _Lot:
    """The pool and what is fitted to it."""

    pool: Pool
    programs: Programs
    scores: Array  # (spot, program)
    pitch_um: float

    @property
    def memory(self) -> Memory:
        pool = self.pool
        return Memory(pool.pictures, self.scores, pool.depth, pool.section, pool.sites.xy_um)

    def kernels(self, rows: NDArray[np.intp] | slice, *, with_space: bool) -> Kernels:
        pool = self.pool
        xy_um = pool.sites.xy_um[rows] if with_space else None
        return Kernels.on(pool.pictures.at(rows), xy_um, pool.section[rows], self.pitch_um)


def fit_spamcaf(
    home: Visible | None,
    others: Sequence[Visible],
    pitch_um: float,
    fit: FitSettings,
    network: NetworkSettings,
    compute: ComputeSettings,
    seed: int,
    log: Log | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Fit the model to the visible spots of the section to predict, `home`, and of `others` of the same tissue.

    `home` is None where that section was never measured. The same seed gives the same weights on a CPU. `log` is told,
    line by line, how the fit goes. A fit that was cut off goes on from its `checkpoints`, to the weights that it would
    have had.
    """
    say, keep = log or (lambda _: None), checkpoints or NoCheckpoints()
    pool = Pool.of(home, others)
    programs = learn_programs(pool.expression, fit.n_programs)
    lot = _Lot(pool, programs, programs.scores(pool.expression), pitch_um)
    say(f"{len(programs)} gene programs, signal shares {_listed(programs.shrink)}")
    # A step's tensors are small: a second thread saves little, and on busy cores waiting for it costs many times more.
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        lessons = School(pool, programs, lot.scores, fit, network, machine, seed, say, keep).teach()
    recovery = _mode(lot, lessons.recovery, fit, seed, with_space=True)
    transfer = _mode(lot, lessons.transfer, fit, seed, with_space=False)
    say(f"network's share of each program among measured spots: {_listed(recovery.mix.weights)}")
    say(f"network's share of each program on unmeasured sections: {_listed(transfer.mix.weights)}")
    model = SpamcafModel(
        gene_mean=pool.gene_mean,
        programs=programs,
        basis=pool.basis,
        recovery=recovery,
        transfer=transfer,
        projection=lessons.projection,
        score_scale=lessons.score_scale,
        networks=lessons.networks,
        memory=lot.memory,
        pitch_um=pitch_um,
        fit=fit,
        network=network,
    )
    return Fitted(model, lessons.log)


def _mode(lot: _Lot, by_network: Array | None, fit: FitSettings, seed: int, *, with_space: bool) -> Mode:
    """Fit the process with or without positions, and its mix with the network's scores out of fold."""
    hyper = _hyperparameters(lot, fit.max_hyper_spots, seed, with_space=with_space)
    by_process, variance = _out_of_fold(lot, hyper, fit.max_exact_spots, with_space=with_space)
    pool = lot.pool
    by_network = by_process if by_network is None else by_network
    weights = mixing_weights(lot.scores, by_process, by_network, pool.folds)
    mixed = by_process + weights * (by_network - by_process)
    # the noise is that of the section to predict, where it was measured
    judged = pool.section == HOME if HOME in pool.section else np.ones(len(pool), bool)
    noise = gene_noise(pool.expression[judged], mixed[judged], variance[judged], lot.programs)
    return Mode(hyper, Mix(weights, noise))


def _out_of_fold(lot: _Lot, hyper: Hyperparameters, max_exact: int, *, with_space: bool) -> tuple[Array, Array]:
    pool = lot.pool
    if len(pool) <= max_exact:
        gram = lot.kernels(slice(None), with_space=with_space).gram()
        return out_of_fold(hyper, gram, lot.scores, pool.depth, pool.folds)
    return out_of_fold_of_many(lot.memory, lot.pitch_um, hyper, pool.folds, has_places=with_space)


def _hyperparameters(lot: _Lot, max_spots: int, seed: int, *, with_space: bool) -> Hyperparameters:
    n = len(lot.pool)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:max_spots])
    gram = lot.kernels(chosen, with_space=with_space).gram()
    return learn_hyperparameters(gram, lot.scores[chosen], lot.pool.depth[chosen])


def _listed(values: Array) -> str:
    return " ".join(f"{value:.2f}" for value in values)

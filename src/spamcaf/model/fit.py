"""Fitting SpaMCAF: programs, Gaussian process, one network per fold, and their stacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.compute import computing
from spamcaf.model.data import TARGET, PooledSections, ReferenceSpots, TrainingSection
from spamcaf.model.fitted import ModeParameters, SpamcafModel
from spamcaf.model.gaussian_process import Hyperparameters, Kernels, learn_hyperparameters, out_of_fold
from spamcaf.model.mixing import Stacking, gene_noise, stacking_weights
from spamcaf.model.programs import Programs, learn_programs
from spamcaf.model.training import Checkpoints, FoldTrainer, NoCheckpoints
from spamcaf.model.vecchia import out_of_fold_vecchia
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

    pooled: PooledSections
    programs: Programs
    scores: Array  # (spot, program)
    pitch_um: float

    @property
    def reference_spots(self) -> ReferenceSpots:
        pooled = self.pooled
        return ReferenceSpots(pooled.image_features, self.scores, pooled.depth, pooled.section, pooled.sites.xy_um)

    def kernels(self, rows: NDArray[np.intp] | slice, *, with_space: bool) -> Kernels:
        pooled = self.pooled
        xy_um = pooled.sites.xy_um[rows] if with_space else None
        return Kernels.on(pooled.image_features.at(rows), xy_um, pooled.section[rows], self.pitch_um)


def fit_spamcaf(
    target_section: TrainingSection | None,
    others: Sequence[TrainingSection],
    pitch_um: float,
    fit: FitSettings,
    network: NetworkSettings,
    compute: ComputeSettings,
    seed: int,
    log: Log | None = None,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Fit the model to the visible spots of `target_section` and of `others` of the same tissue.

    `target_section` is None where that section was never measured. The same seed gives the same weights on a CPU.
    `log` gets a line per step of the fit. A fit that was cut off goes on from its `checkpoints`, to
    the weights that it would have had.
    """
    say, keep = log or (lambda _: None), checkpoints or NoCheckpoints()
    pooled = PooledSections.of(target_section, others)
    programs = learn_programs(pooled.expression, fit.n_programs)
    lot = _Lot(pooled, programs, programs.scores(pooled.expression), pitch_um)
    say(f"{len(programs)} gene programs, signal shares {_listed(programs.signal_fraction)}")
    # A step's tensors are small: a second thread saves little, and on busy cores waiting for it costs many times more.
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        lessons = FoldTrainer(pooled, programs, lot.scores, fit, network, machine, seed, say, keep).fit_folds()
    within_section = _mode(lot, lessons.within_section, fit, seed, with_space=True)
    new_section = _mode(lot, lessons.new_section, fit, seed, with_space=False)
    say(f"network's share of each program among measured spots: {_listed(within_section.stacking.weights)}")
    say(f"network's share of each program on unmeasured sections: {_listed(new_section.stacking.weights)}")
    model = SpamcafModel(
        gene_mean=pooled.gene_mean,
        programs=programs,
        basis=pooled.basis,
        within_section=within_section,
        new_section=new_section,
        projection=lessons.projection,
        score_scale=lessons.score_scale,
        networks=lessons.networks,
        reference_spots=lot.reference_spots,
        pitch_um=pitch_um,
        fit=fit,
        network=network,
    )
    return Fitted(model, lessons.log)


def _mode(lot: _Lot, by_network: Array | None, fit: FitSettings, seed: int, *, with_space: bool) -> ModeParameters:
    """Fit the process with or without positions, and its mix with the network's scores out of fold."""
    hyper = _hyperparameters(lot, fit.max_hyper_spots, seed, with_space=with_space)
    by_gp, variance = _out_of_fold(lot, hyper, fit.max_exact_spots, with_space=with_space)
    pooled = lot.pooled
    by_network = by_gp if by_network is None else by_network
    weights = stacking_weights(lot.scores, by_gp, by_network, pooled.folds)
    mixed = by_gp + weights * (by_network - by_gp)
    # the noise is that of the section to predict, where it was measured
    judged = pooled.section == TARGET if TARGET in pooled.section else np.ones(len(pooled), bool)
    noise = gene_noise(pooled.expression[judged], mixed[judged], variance[judged], lot.programs)
    return ModeParameters(hyper, Stacking(weights, noise))


def _out_of_fold(lot: _Lot, hyper: Hyperparameters, max_exact: int, *, with_space: bool) -> tuple[Array, Array]:
    pooled = lot.pooled
    if len(pooled) <= max_exact:
        gram = lot.kernels(slice(None), with_space=with_space).gram()
        return out_of_fold(hyper, gram, lot.scores, pooled.depth, pooled.folds)
    return out_of_fold_vecchia(lot.reference_spots, lot.pitch_um, hyper, pooled.folds, has_positions=with_space)


def _hyperparameters(lot: _Lot, max_spots: int, seed: int, *, with_space: bool) -> Hyperparameters:
    n = len(lot.pooled)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:max_spots])
    gram = lot.kernels(chosen, with_space=with_space).gram()
    return learn_hyperparameters(gram, lot.scores[chosen], lot.pooled.depth[chosen])


def _listed(values: Array) -> str:
    return " ".join(f"{value:.2f}" for value in values)

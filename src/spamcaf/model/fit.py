"""Fitting SpaMCAF: the recipe on one page.

1. Stack the visible spots of the sections, each centred by itself.
2. Learn gene programs; from here on everything predicts program scores.
3. Train one network per cross-validation fold.
4. Fit the Gaussian process twice: among measured spots (with positions), and for new sections (image features only).
5. Stack network and process by their out-of-fold predictions, and learn the noise of each gene from the error left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from spamcaf.model.training import Checkpoints, FoldTrainer
from spamcaf.model.vecchia import out_of_fold_vecchia
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings

logger = logging.getLogger(__name__)

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """The model, and the training log: one row per fold and epoch, columns `training.LOG_COLUMNS`."""

    model: SpamcafModel
    log: list[dict[str, Any]]


def fit_spamcaf(
    target_section: TrainingSection | None,
    others: Sequence[TrainingSection],
    pitch_um: float,
    fit: FitSettings,
    network: NetworkSettings,
    compute: ComputeSettings,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> Fitted:
    """Fit the model to the visible spots of a section, and of other sections of the same tissue.

    Parameters
    ----------
    target_section : TrainingSection or None
        The section to predict; None where it was never measured.
    others : sequence of TrainingSection
        With the same genes and the same backbone.
    pitch_um : float
        Distance of neighbouring spots.
    fit, network, compute : settings
    seed : int
        The same seed gives the same weights on a CPU.
    checkpoints : Checkpoints, optional
        Where finished folds are stored: a fit that was cut off goes on from them, to the weights that it would have
        had.

    Raises
    ------
    InputError
        Where there is no spot, or only one fold.
    """
    pooled = PooledSections.from_sections(target_section, others)
    programs = learn_programs(pooled.expression, fit.n_programs)
    scores = programs.scores(pooled.expression)
    logger.info("%d gene programs, signal fractions %s", len(programs), _listed(programs.signal_fraction))
    # A step's tensors are small: a second thread saves little, and on busy cores waiting for it costs many times more.
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        folds = FoldTrainer(pooled, programs, scores, fit, network, machine, seed, checkpoints).fit_folds()
    spots = ReferenceSpots(pooled.image_features, scores, pooled.depth, pooled.section, pooled.sites.xy_um)
    mode = _ModeFit(pooled, programs, spots, pitch_um, fit, seed)
    within_section = mode.fit(folds.within_section, use_positions=True)
    new_section = mode.fit(folds.new_section, use_positions=False)
    logger.info("network weights among measured spots: %s", _listed(within_section.stacking.network_weight))
    logger.info("network weights on new sections: %s", _listed(new_section.stacking.network_weight))
    model = SpamcafModel(
        gene_mean=pooled.gene_mean,
        programs=programs,
        kernel_pca=pooled.kernel_pca,
        within_section=within_section,
        new_section=new_section,
        network_pca=folds.network_pca,
        score_scale=folds.score_scale,
        networks=folds.networks,
        reference_spots=spots,
        pitch_um=pitch_um,
        fit=fit,
        network=network,
    )
    return Fitted(model, folds.log)


@dataclass(frozen=True)
class _ModeFit:
    """Steps 4 and 5, for one mode at a time."""

    pooled: PooledSections
    programs: Programs
    spots: ReferenceSpots
    pitch_um: float
    settings: FitSettings
    seed: int

    def fit(self, by_network: Float64 | None, *, use_positions: bool) -> ModeParameters:
        """Fit the process, and its stacking with the network's scores out of fold (spot, program), if any."""
        pooled, truth = self.pooled, self.spots.scores
        hyper = self._hyperparameters(use_positions)
        by_gp, variance = self._out_of_fold(hyper, use_positions)
        by_network = by_gp if by_network is None else by_network
        weights = stacking_weights(truth, by_gp, by_network, pooled.folds)
        combined = by_gp + weights * (by_network - by_gp)
        # the noise is that of the section to predict, where it was measured
        rows = pooled.section == TARGET if TARGET in pooled.section else np.ones(len(pooled), bool)
        noise = gene_noise(pooled.expression[rows], combined[rows], variance[rows], self.programs)
        return ModeParameters(hyper, Stacking(weights, noise))

    def _hyperparameters(self, use_positions: bool) -> Hyperparameters:
        """Learn them on a random part of the spots: the marginal likelihood is cubic in their number."""
        n = len(self.pooled)
        rows = np.sort(np.random.default_rng(self.seed).permutation(n)[: self.settings.max_hyper_spots])
        chosen = self.spots.at(rows)
        return learn_hyperparameters(self._kernels(chosen, use_positions).gram(), chosen.scores, chosen.depth)

    def _out_of_fold(self, hyper: Hyperparameters, use_positions: bool) -> tuple[Float64, Float64]:
        spots, folds = self.spots, self.pooled.folds
        if len(spots) <= self.settings.max_exact_spots:
            return out_of_fold(hyper, self._kernels(spots, use_positions).gram(), spots.scores, spots.depth, folds)
        return out_of_fold_vecchia(spots, self.pitch_um, hyper, folds, use_positions=use_positions)

    def _kernels(self, spots: ReferenceSpots, use_positions: bool) -> Kernels:
        xy_um = spots.xy_um if use_positions else None
        return Kernels.of_spots(spots.image_features, xy_um, spots.section, self.pitch_um)


def _listed(values: Float64) -> str:
    return " ".join(f"{value:.2f}" for value in values)

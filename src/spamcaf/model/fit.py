"""Fitting SpaMCAF: the recipe on one page.

1. Stack the visible spots of the sections, each centred by itself.
2. Take out what sequencing depth explains, and learn gene programs of the rest, from these spots and from reference
   counts. From here on everything predicts scores: log depth and programs.
3. Train one network per cross-validation fold.
4. Fit the Gaussian process twice: among measured spots (with positions), and for new sections (image features only).
   Among measured spots the most variable genes get a process of their own beside.
5. Stack network, process and genes' processes by their out-of-fold predictions, and learn the noise of each gene from
   the error left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.compute import computing
from spamcaf.histology.backbone import LastBlocks
from spamcaf.model.data import TARGET, PooledSections, ReferenceCounts, ReferenceSpots, TrainingSection
from spamcaf.model.depth import ExpressionMeans
from spamcaf.model.fitted import ModeParameters, SpamcafModel
from spamcaf.model.gaussian_process import (
    Hyperparameters,
    Kernels,
    add_gene_covariances,
    learn_hyperparameters,
    out_of_fold,
)
from spamcaf.model.mixing import Stacking, gene_noise, gene_weights, stacking_weights
from spamcaf.model.programs import Programs, learn_programs
from spamcaf.model.training import Checkpoints, FoldTrainer
from spamcaf.model.vecchia import out_of_fold_vecchia
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings

logger = logging.getLogger(__name__)

Float64 = NDArray[np.float64]
MAX_SCORED_SPOTS, MIN_SCORED_SPOTS = 20_000, 5000
"""Of more spots than the first, as many folds are predicted out of fold as hold at least the second."""


@dataclass(frozen=True)
class Fitted:
    """The model, the training log (a row per fold and epoch, columns `training.LOG_COLUMNS`), and sources' weights."""

    model: SpamcafModel
    log: list[dict[str, Any]]
    sources: dict[str, float]  # share of each source in the covariance that gene programs were learned from


def fit_spamcaf(
    target_section: TrainingSection | None,
    others: Sequence[TrainingSection],
    pitch_um: float,
    fit: FitSettings,
    network: NetworkSettings,
    compute: ComputeSettings,
    seed: int,
    checkpoints: Checkpoints | None = None,
    references: Sequence[ReferenceCounts] = (),
    last_blocks: LastBlocks | None = None,
) -> Fitted:
    """Fit the model to the visible spots of a section, and of other sections of the same tissue.

    Parameters
    ----------
    target_section, others : TrainingSection, sequence of TrainingSection
        The section to predict, None where it was never measured; others with the same genes and the same backbone.
    pitch_um : float
        Distance of neighbouring spots.
    fit, network, compute, seed
        Settings; the same seed gives the same weights on a CPU.
    checkpoints : Checkpoints, optional
        Where finished folds are stored: a fit that was cut off goes on from them, to the same weights.
    references : sequence of ReferenceCounts
        Counts of other sections, patients or cells, of the same genes, that gene programs are learned from too.
    last_blocks : LastBlocks, optional
        The backbone's last blocks, to be trained with the networks; spots then need their maps.

    Raises
    ------
    InputError
        Where there is no spot, or only one fold.
    """
    pooled = PooledSections.from_sections(target_section, others)
    programs, sources = _learn_programs(pooled, references, fit.n_programs, seed)
    scores = pooled.scores(programs)
    # A step's tensors are small: a second thread saves little, and on busy cores waiting for it costs many times more.
    with computing(compute.model_copy(update={"threads": compute.threads or 1})) as machine:
        folds = FoldTrainer(pooled, programs, scores, fit, network, machine, seed, checkpoints, last_blocks).fit_folds()
    own_genes = _most_variable(pooled.centred(), fit.n_gene_processes)
    spots = pooled.reference_spots(np.hstack([scores, pooled.centred()[:, own_genes]]))
    mode = _ModeFit(pooled, programs, spots, own_genes, pitch_um, fit, seed)
    model = SpamcafModel(
        means=ExpressionMeans.mean_of(list(pooled.means.values())),
        programs=programs,
        own_genes=own_genes,
        kernel_pca=pooled.kernel_pca,
        within_section=mode.fit(folds.within_section, use_positions=True),
        new_section=mode.fit(folds.new_section, use_positions=False),
        network_pca=folds.network_pca,
        score_scale=folds.score_scale,
        networks=folds.networks,
        reference_spots=spots,
        pitch_um=pitch_um,
        fit=fit,
        network=network,
    )
    return Fitted(model, folds.log, sources)


def _learn_programs(
    pooled: PooledSections, references: Sequence[ReferenceCounts], n_programs: int, seed: int
) -> tuple[Programs, dict[str, float]]:
    """Return gene programs, and the weight of each source by name."""
    first, *rest = pooled.means
    own, names = pooled.weighted_residuals(first), ["this section", *(f"section {number}" for number in rest)]
    if TARGET not in pooled.means:  # no section is more like the one to predict than the others
        own, names, rest = np.vstack([pooled.weighted_residuals(n) for n in pooled.means]), ["measured sections"], []
    rows = [
        *(pooled.weighted_residuals(number) for number in rest),
        *(part.weighted_residuals() for part in references),
    ]
    programs, weights = learn_programs(own, rows, n_programs, pooled.n_genes, seed)
    sources = dict(zip([*names, *(part.name for part in references)], weights.tolist(), strict=True))
    logger.info("%d gene programs, signal fractions %s", len(programs), _listed(programs.signal_fraction))
    logger.info("gene programs learned from: %s", ", ".join(f"{name} {w:.2f}" for name, w in sources.items()))
    return programs, sources


def _most_variable(centred: Float64, n: int) -> NDArray[np.int64]:
    """Return the indices of the `n` genes of largest variance among `centred` (spot, gene), in their order."""
    return np.sort(np.argsort(-np.square(centred).mean(axis=0), kind="stable")[:n])


def scored_spots(folds: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the spots (spot,) that are predicted out of fold, to learn stacking weights and noise from.

    All of them, or of many the first folds: a few numbers per gene are as well known from thousands of spots.
    """
    if len(folds) <= MAX_SCORED_SPOTS:
        return np.ones(len(folds), bool)
    numbers, n_spots = np.unique(folds, return_counts=True)
    n_folds = int(np.searchsorted(np.cumsum(n_spots), MIN_SCORED_SPOTS)) + 1
    return np.isin(folds, numbers[:n_folds])


@dataclass(frozen=True)
class _ModeFit:
    """Steps 4 and 5, for one mode at a time."""

    pooled: PooledSections
    programs: Programs
    spots: ReferenceSpots  # with a column per gene of `own_genes`
    own_genes: NDArray[np.int64]
    pitch_um: float
    settings: FitSettings
    seed: int

    def fit(self, by_network: Float64 | None, *, use_positions: bool) -> ModeParameters:
        """Fit the process, and its stacking with the network's scores out of fold (spot, 1 + program), if any."""
        n_scores, scored = 1 + len(self.programs), scored_spots(self.pooled.folds)
        pooled, scores = self.pooled, self.spots.scores
        if not scored.all():
            pooled, scores = pooled.without_sites(scored), scores[scored]
            by_network = None if by_network is None else by_network[scored]
        hyper = self._hyperparameters(use_positions)
        by_gp, variance = self._out_of_fold(hyper, use_positions, scored)
        by_gene, variance, by_gp = by_gp[:, n_scores:], variance[:, :n_scores], by_gp[:, :n_scores]
        by_network = by_gp if by_network is None else by_network
        weights = stacking_weights(scores[:, :n_scores], by_gp, by_network, pooled.folds)
        where = "among measured spots" if use_positions else "on new sections"
        logger.info("network weights %s: %s", where, _listed(weights))
        combined = by_gp + weights * (by_network - by_gp)
        truth, expression = pooled.centred(), pooled.decode(self.programs, combined)
        own, gene_weight = self.own_genes, np.zeros(len(self.own_genes))
        if use_positions and len(own):
            # beside the process alone, so that its prediction does not depend on the network
            by_programs = pooled.decode(self.programs, by_gp)[:, own]
            gene_weight = gene_weights(truth[:, own], by_programs, by_gene, pooled.folds)
            expression[:, own] += gene_weight * (by_gene - expression[:, own])
        # the noise is that of the section to predict, where it was measured
        is_target = pooled.section == TARGET
        rows = is_target if is_target.any() and not is_target.all() else slice(None)
        variance = pooled.decode_variance(self.programs, combined, variance)
        noise = gene_noise(truth[rows], expression[rows], variance[rows])
        return ModeParameters(hyper, Stacking(weights, gene_weight, noise))

    def _hyperparameters(self, use_positions: bool) -> Hyperparameters:
        """Learn them on a random part of the spots: the marginal likelihood is cubic in their number."""
        n, n_scores = len(self.pooled), 1 + len(self.programs)
        rows = np.sort(np.random.default_rng(self.seed).permutation(n)[: self.settings.max_hyper_spots])
        chosen = self.spots.at(rows)
        gram = self._kernels(chosen, use_positions).gram()
        hyper = learn_hyperparameters(gram, chosen.scores[:, :n_scores], chosen.depth)
        if not use_positions:
            return hyper
        return add_gene_covariances(hyper, gram, chosen.scores[:, n_scores:], chosen.depth)

    def _out_of_fold(
        self, hyper: Hyperparameters, use_positions: bool, scored: NDArray[np.bool_]
    ) -> tuple[Float64, Float64]:
        """Return mean and variance of the `scored` spots, each predicted from the other folds."""
        spots, folds = self.spots.first_columns(len(hyper.covariance_of)), self.pooled.folds
        if len(spots) <= self.settings.max_exact_spots:
            gram = self._kernels(spots, use_positions).gram()
            mean, variance = out_of_fold(hyper, gram, spots.scores, spots.depth, folds)
            return mean[scored], variance[scored]
        return out_of_fold_vecchia(spots, self.pitch_um, hyper, folds, scored, use_positions=use_positions)

    def _kernels(self, spots: ReferenceSpots, use_positions: bool) -> Kernels:
        xy_um = spots.xy_um if use_positions else None
        return Kernels.of_spots(spots.image_features, xy_um, spots.section, self.pitch_um)


def _listed(values: Float64) -> str:
    return " ".join(f"{value:.2f}" for value in values)

"""Predicting expression at sites, chunk by chunk: memory is bounded, and time is linear in the sites.

Scores of the Gaussian process and of the networks' mean are combined by the stacking weights and decoded to genes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.compute import Machine, computing
from spamcaf.errors import InputError
from spamcaf.histology.backbone import LastBlocks
from spamcaf.model.data import TARGET, ImageFeatures, ReferenceSpots, SectionMeans, SiteTensors, SpotTensors, nearest
from spamcaf.model.fitted import ModeParameters, SpamcafModel, require_n_features
from spamcaf.model.gaussian_process import GaussianProcess, Hyperparameters, Kernels, condition
from spamcaf.model.network import SpamcafNetwork
from spamcaf.model.training import load_weights, make_network, network_shape
from spamcaf.model.vecchia import VecchiaProcess, condition_vecchia
from spamcaf.parameters import ComputeSettings
from spamcaf.sections.sites import CHUNK, ROWS, Measured, Sites, SiteSource, iter_chunks

CHUNK_NUMBERS = 10_000_000
"""Kernel values held per chunk and kernel: about 40 MB each."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """Expression at sites, each (site, gene) float32, log1p of counts per 10 000, none below 0."""

    mean: Float32
    sd: Float32 | None = None  # standard deviation of a measurement there; None for models without one
    gp: Float32 | None = None  # the Gaussian process alone; None for models without one
    draws: Float32 | None = None  # (draw, site, gene) from the posterior, where they were asked for
    scores: Float32 | None = None  # (site, 1 + program) log depth and program scores, from the section's mean


def predict_spamcaf(
    model: SpamcafModel,
    context: Measured | None,
    sites: SiteSource,
    compute: ComputeSettings,
    last_blocks: LastBlocks | None = None,
) -> Predicted:
    """Predict expression at sites of one section.

    Parameters
    ----------
    model : SpamcafModel
    context : Measured or None
        The section's measured spots, the only measurements of it that are used: the visible spots to predict hidden
        ones, all of them for a grid. None where the section was never measured: then only image features are used, with
        the model's reference spots.
    sites : SiteSource
        Without context they should cover the section, since image features are counted from their mean.
    compute : ComputeSettings
    last_blocks : LastBlocks, optional
        The backbone's last blocks, whatever their weights, where the model has its own.

    Raises
    ------
    InputError
        Where features or genes are not those that the model was fitted with.
    """
    mode, means, known = take_context(model, context, sites)
    gp = condition_on(model, mode.hyper, known, use_positions=context is not None)
    n_genes, n_scores = model.sizes["gene"], model.sizes["score"]
    expression, sd, by_gp = (np.empty((len(sites), n_genes), np.float32) for _ in range(3))
    scores = np.empty((len(sites), n_scores), np.float32)
    with computing(compute) as machine:
        ensemble = _Ensemble.of_model(model, machine, means, last_blocks)
        spots = None
        if model.networks:
            spots = ensemble.new_section(sites) if context is None else ensemble.measured_spots(context)
        for rows, chunk, image_features in iter_sites(model, means, sites, gp.n_spots):
            mean, variance = gp.at(image_features, chunk.xy_um)
            by_gene, mean, variance = mean[:, n_scores:], mean[:, :n_scores], variance[:, :n_scores]
            combined = mode.stacking.combine(mean, ensemble.scores(chunk, spots))
            expression[rows], by_gp[rows] = (_decode(model, mode, means, s, by_gene) for s in (combined, mean))
            scores[rows] = combined
            variance = means.expression.decode_variance(model.programs, combined, variance)
            sd[rows] = np.sqrt(variance + mode.stacking.gene_noise)
    return Predicted(expression, sd, by_gp, scores=scores)


def take_context(
    model: SpamcafModel, context: Measured | None, sites: SiteSource
) -> tuple[ModeParameters, SectionMeans, ReferenceSpots]:
    """Return the parameters, the section's means, and the spots that predictions at `sites` are conditioned on.

    Raises InputError where features or genes are not those that the model was fitted with.
    """
    require_n_features(model.sizes["feature"], sites.at(slice(0, 1)).target)
    if context is None:
        parts = [ImageFeatures.from_sites(part) for part in iter_chunks(sites, CHUNK)]
        means = SectionMeans(model.means, ImageFeatures.stack(parts).mean())
        return model.new_section, means, model.reference_spots.first_columns(model.sizes["score"])
    _require_context(model, context)
    means = SectionMeans.from_spots(context)
    return model.within_section, means, _known_spots(model, context, means)


def iter_sites(
    model: SpamcafModel, means: SectionMeans, sites: SiteSource, n_spots: int
) -> Iterator[tuple[slice, Sites, ImageFeatures]]:
    """Yield rows, sites and kernel inputs of each chunk; `n_spots` values are held per site and kernel."""
    size = min(CHUNK, max(1, CHUNK_NUMBERS // n_spots))
    for start in range(0, len(sites), size):
        rows = slice(start, start + size)
        chunk = sites.at(rows)
        yield rows, chunk, ImageFeatures.from_sites(chunk).minus(means.image_features).project(model.kernel_pca)


def _decode(
    model: SpamcafModel, mode: ModeParameters, means: SectionMeans, scores: Float64, by_gene: Float64
) -> Float32:
    """Return expression (site, gene) of scores (site, 1 + program) and of genes' own processes (site, own gene)."""
    expression, own = means.expression.decode(model.programs, scores), model.own_genes
    if by_gene.shape[1]:  # none on a new section
        change = by_gene + means.expression.expression[own] - expression[:, own]
        expression[:, own] += mode.stacking.gene_weight * change
    # The decoder has no lower limit; expression has one.
    return np.maximum(expression, 0).astype(np.float32)


def _known_spots(model: SpamcafModel, context: Measured, means: SectionMeans) -> ReferenceSpots:
    """Return the spots of the section itself, and the model's reference spots of other sections."""
    others = model.reference_spots.of_other_sections()
    here = [
        ImageFeatures.from_sites(part).minus(means.image_features).project(model.kernel_pca)
        for part in iter_chunks(context.sites, ROWS)
    ]
    return ReferenceSpots(
        ImageFeatures.stack([*here, others.image_features]),
        np.concatenate([_columns(model, context, means), others.scores]),
        np.concatenate([context.depth, others.depth]),
        np.concatenate([np.full(len(context), TARGET), others.section]),
        np.concatenate([context.sites.xy_um, others.xy_um]),
    )


def _columns(model: SpamcafModel, context: Measured, means: SectionMeans) -> Float64:
    """Return the columns (spot, column) of measured spots, as in `ReferenceSpots.scores`."""
    own = model.own_genes
    genes = context.expression[:, own] - means.expression.expression[own]
    return np.hstack([means.expression.scores(model.programs, context.all_expression, context.depth), genes])


def condition_on(
    model: SpamcafModel, hyper: Hyperparameters, known: ReferenceSpots, *, use_positions: bool
) -> GaussianProcess | VecchiaProcess:
    """Condition the process on measured spots; approximately where they are many."""
    if len(known) > model.fit.max_exact_spots:
        return condition_vecchia(known, model.pitch_um, hyper, use_positions=use_positions)
    xy_um = known.xy_um if use_positions else None
    kernels = Kernels.of_spots(known.image_features, xy_um, known.section, model.pitch_um)
    return condition(kernels, hyper, known.scores, known.depth)


def _require_context(model: SpamcafModel, context: Measured) -> None:
    require_n_features(model.sizes["feature"], context.sites.at(slice(0, 1)).target)
    expected, found = model.sizes["program_gene"], context.all_expression.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} genes.",
            f"the {expected} genes that the model was fitted with.",
            "Select them in the order of its panel.",
        )


@dataclass(frozen=True)
class _Ensemble:
    """The folds' networks on the device, whose scores are averaged, for one section with the means `means`."""

    model: SpamcafModel
    networks: tuple[SpamcafNetwork, ...]
    machine: Machine
    means: SectionMeans

    @classmethod
    def of_model(
        cls, model: SpamcafModel, machine: Machine, means: SectionMeans, last_blocks: LastBlocks | None = None
    ) -> _Ensemble:
        shape = network_shape(model.sizes["component"], model.sizes["score"], model.network)
        networks = tuple(make_network(shape, last_blocks, model.network_pca) for _ in model.networks)
        for network, weights in zip(networks, model.networks, strict=True):
            load_weights(network, weights)
        return cls(model, tuple(network.to(machine.device).eval() for network in networks), machine, means)

    def measured_spots(self, context: Measured) -> tuple[SpotTensors, SiteSource]:
        """Return the tensors of measured spots, and the spots."""
        means, model = self.means.expression, self.model
        scores = means.scores(model.programs, context.all_expression, context.depth) / model.score_scale
        tensor = torch.from_numpy(scores.astype(np.float32)).to(self.machine.device)
        return SpotTensors(self._tensors(context.sites, context.sites), tensor), context.sites

    def new_section(self, sites: SiteSource) -> tuple[SpotTensors, None]:
        """Return the tensors of a section without measurements or positions: its image features."""
        parts = [self._tensors(part, sites) for part in iter_chunks(sites, CHUNK)]
        zeros = torch.zeros(len(sites), self.model.sizes["score"], device=self.machine.device)
        return SpotTensors(SiteTensors.stack(parts).without_positions(), zeros), None

    @torch.no_grad()
    def scores(self, sites: Sites, spots: tuple[SpotTensors, SiteSource | None] | None) -> Float64:
        """Return the mean network's program scores (site, program); 0 without networks, whose weight is 0 then."""
        if spots is None:
            return np.zeros((len(sites), self.model.sizes["score"]))
        tensors, measured = spots
        if measured is None:
            batch = self._tensors(sites, sites, with_maps=True).without_positions()
            index = np.empty((len(sites), 0), np.intp)
        else:
            batch = self._tensors(sites, measured, with_maps=True)
            index = nearest(sites.xy_um, measured.xy_um, self.model.network.n_context)
        rows = torch.from_numpy(index).to(self.machine.device)
        given = tensors.network_input(batch, slice(None), rows, torch.ones_like(rows, dtype=torch.bool))
        with self.machine.autocast():
            out = torch.stack([network(given).fusion.float() for network in self.networks]).mean(0)
        return out.cpu().numpy().astype(np.float64) * self.model.score_scale

    def _tensors(self, sites: SiteSource, spots: SiteSource, *, with_maps: bool = False) -> SiteTensors:
        mean, origin_um = self.means.image_features.neighbourhood, spots.xy_um.mean(axis=0)
        with_maps = with_maps and self.model.fit.finetune > 0
        where = (origin_um, self.model.network_pca, self.machine.device)
        return SiteTensors.from_sites(sites, mean, *where, with_maps=with_maps)

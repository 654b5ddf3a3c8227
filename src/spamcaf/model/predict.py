"""Predicting expression at sites, in chunks: memory is bounded and time linear in the sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.compute import Machine, computing
from spamcaf.errors import InputError
from spamcaf.model.data import TARGET, ImageFeatures, ReferenceSpots, SectionMeans, SiteTensors, SpotTensors, nearest
from spamcaf.model.fitted import ModeParameters, SpamcafModel, Tensors
from spamcaf.model.gaussian_process import GaussianProcess, Kernels, condition
from spamcaf.model.network import SpamcafNetwork
from spamcaf.model.released import ReleasedModel, predict_released
from spamcaf.model.trained import FittedModel
from spamcaf.model.training import network_shape
from spamcaf.model.vecchia import VecchiaProcess, condition_vecchia
from spamcaf.parameters import ComputeSettings
from spamcaf.sections.sites import CHUNK, Measured, Sites, SiteSource, iter_chunks

BLOCK_NUMBERS = 10_000_000
"""Kernel values held per block and kernel: about 40 MB each."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """Expression at sites, each (site, gene) float32, log1p of counts per 10 000.

    `mean` is the prediction, `sd` the standard deviation of a measurement there, `gp` the Gaussian process alone;
    none is below 0. `released` gives a mean only.
    """

    mean: NDArray[np.float32]
    sd: NDArray[np.float32] | None = None
    gp: NDArray[np.float32] | None = None


def predict(model: FittedModel, context: Measured | None, sites: SiteSource, compute: ComputeSettings) -> Predicted:
    """Predict expression at `sites` of the section whose measured spots are `context`.

    Only `context` is looked at: the visible spots for recovery, all measured ones for a grid. None means that the
    section was never measured: then pictures alone speak, through what the model recalls of its training spots, and
    `sites` should cover the section, since pictures are counted from their mean. `released` never looks at `context`.
    """
    if isinstance(model, ReleasedModel):
        return Predicted(predict_released(model, sites, compute))
    _check_features(model, sites.at(slice(0, 1)))
    if context is not None:
        _check_context(model, context)
    mode = model.new_section if context is None else model.within_section
    centre = SectionMeans(model.gene_mean, _mean_image_features(sites)) if context is None else SectionMeans.of(context)
    gp = _recall(model) if context is None else _condition_on(model, context, centre)
    expression, sd, alone = (np.empty((len(sites), model.sizes.genes), np.float32) for _ in range(3))
    with computing(compute) as machine:
        ensemble = Ensemble.of(model, machine, centre)
        spots = ensemble.section(sites) if context is None else ensemble.spots(context)
        for rows in _blocks(len(sites), gp.n_spots):
            block = sites.at(rows)
            image_features = model.basis(ImageFeatures.of(block).minus(centre.image_features))
            mean, variance = gp.at(image_features, block.xy_um)
            mixed = mode.stacking.combine(mean, ensemble.scores(block, spots))
            expression[rows], alone[rows] = (_expression(model, centre, scores) for scores in (mixed, mean))
            sd[rows] = np.sqrt(model.programs.decode_variance(variance) + mode.stacking.gene_noise)
    return Predicted(expression, sd, alone)


def _mean_image_features(sites: SiteSource) -> ImageFeatures:
    return ImageFeatures.stack([ImageFeatures.of(part) for part in iter_chunks(sites, CHUNK)]).centre()


def _expression(model: SpamcafModel, centre: SectionMeans, scores: Array) -> NDArray[np.float32]:
    # The decoder is linear and knows no zero, below which there is no expression.
    return np.maximum(centre.expression + model.programs.decode(scores), 0).astype(np.float32)


def _blocks(n_sites: int, n_spots: int) -> list[slice]:
    size = min(CHUNK, max(1, BLOCK_NUMBERS // n_spots))
    return [slice(start, start + size) for start in range(0, n_sites, size)]


def _recall(model: SpamcafModel) -> GaussianProcess | VecchiaProcess:
    """Condition the process on what is recalled of all sections, places left aside."""
    return _conditioned(model, model.new_section, model.reference_spots, has_positions=False)


def _condition_on(model: SpamcafModel, context: Measured, centre: SectionMeans) -> GaussianProcess | VecchiaProcess:
    """Condition the process on the spots of the section itself and on what is recalled of others."""
    others = model.reference_spots.others()
    here = model.basis(ImageFeatures.of(context.sites).minus(centre.image_features))
    known = ReferenceSpots(
        ImageFeatures.stack([here, others.image_features]),
        np.concatenate([model.programs.scores(context.expression - centre.expression), others.scores]),
        np.concatenate([context.depth, others.depth]),
        np.concatenate([np.full(len(context), TARGET), others.section]),
        np.concatenate([context.sites.xy_um, others.xy_um]),
    )
    return _conditioned(model, model.within_section, known, has_positions=True)


def _conditioned(
    model: SpamcafModel, mode: ModeParameters, known: ReferenceSpots, *, has_positions: bool
) -> GaussianProcess | VecchiaProcess:
    if len(known) > model.fit.max_exact_spots:
        return condition_vecchia(known, model.pitch_um, mode.hyper, has_positions=has_positions)
    xy_um = known.xy_um if has_positions else None
    kernels = Kernels.on(known.image_features, xy_um, known.section, model.pitch_um)
    return condition(kernels, mode.hyper, known.scores, known.depth)


def _check_features(model: SpamcafModel, sites: Sites) -> None:
    expected, found = model.sizes.features, sites.target.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} features per tile.",
            f"{expected} features, as the model was fitted with.",
            "Embed the sites with the model's own backbone.",
        )


def _check_context(model: SpamcafModel, context: Measured) -> None:
    _check_features(model, context.sites)
    expected, found = model.sizes.genes, context.expression.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} genes.", f"the {expected} genes of the model's panel.", "Select the panel's genes in its order."
        )


@dataclass(frozen=True)
class Ensemble:
    """The folds' networks, whose scores are averaged."""

    model: SpamcafModel
    networks: tuple[SpamcafNetwork, ...]
    machine: Machine
    centre: SectionMeans

    @classmethod
    def of(cls, model: SpamcafModel, machine: Machine, centre: SectionMeans) -> Ensemble:
        """Return the networks of `model` on the machine, ready to predict the section with the means `centre`."""
        shape = network_shape(model.sizes.components, model.sizes.programs, model.network)
        return cls(model, tuple(_load(SpamcafNetwork(shape), t, machine) for t in model.networks), machine, centre)

    def spots(self, context: Measured) -> tuple[SpotTensors, Sites]:
        """Return the view of measured spots, and where they are."""
        centred = context.expression - self.centre.expression
        scores = self.model.programs.scores(centred) / self.model.score_scale
        return SpotTensors(self._view(context.sites, context.sites), self._tensor(scores)), context.sites

    def section(self, sites: SiteSource) -> tuple[SpotTensors, None]:
        """Return the view of a section without measurements or positions: its pictures."""
        view = SiteTensors.stack([self._view(part, sites) for part in iter_chunks(sites, CHUNK)]).without_positions()
        return SpotTensors(view, torch.zeros(len(sites), self.model.sizes.programs, device=self.machine.device)), None

    @torch.no_grad()
    def scores(self, sites: Sites, spots: tuple[SpotTensors, Sites | None]) -> Array:
        """Return the mean network's program scores (site, program); 0 without a network, which has no share then."""
        if not self.networks:
            return np.zeros((len(sites), self.model.sizes.programs))
        view, places = spots
        if places is None:
            block = self._view(sites, sites).without_positions()
            index = np.empty((len(sites), 0), np.intp)
        else:
            block = self._view(sites, places)
            index = nearest(sites.xy_um, places.xy_um, self.model.network.n_context)
        rows = torch.from_numpy(index).to(self.machine.device)
        given = view.network_input(block, slice(None), rows, torch.ones_like(rows, dtype=torch.bool))
        with self.machine.autocast():
            out = torch.stack([network(given).fusion.float() for network in self.networks]).mean(0)
        return out.cpu().numpy().astype(np.float64) * self.model.score_scale

    def _view(self, sites: Sites, spots: SiteSource) -> SiteTensors:
        centre, origin_um = self.centre.image_features.neighbourhood, spots.xy_um.mean(axis=0)
        return SiteTensors.of(sites, centre, origin_um, self.model.projection, self.machine.device)

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.machine.device)


def _load(network: SpamcafNetwork, tensors: Tensors, machine: Machine) -> SpamcafNetwork:
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
    return network.to(machine.device).eval()

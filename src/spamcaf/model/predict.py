"""Predicting expression at sites, in chunks: memory is bounded and time linear in the sites."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.compute import Machine, computing
from spamcaf.errors import InputError
from spamcaf.model.data import HOME, Centre, Memory, Pictures, SiteView, SpotView, nearest
from spamcaf.model.fitted import Mode, SpamcafModel, Tensors
from spamcaf.model.gaussian_process import Kernels, Process, condition
from spamcaf.model.network import SpamcafNetwork
from spamcaf.model.released import ReleasedModel, predict_released
from spamcaf.model.trained import FittedModel
from spamcaf.model.training import network_shape
from spamcaf.model.vecchia import NearestProcess, condition_on_many
from spamcaf.parameters import ComputeSettings
from spamcaf.sections.sites import CHUNK, Measured, Sites, SiteSource, iter_chunks

BLOCK_NUMBERS = 10_000_000
"""Kernel values held per block and kernel: about 40 MB each."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """Expression at sites, each (site, gene) float32, log1p of counts per 10 000.

    `mean` is the prediction, `sd` the standard deviation of a measurement there, `process` the Gaussian process alone;
    none is below 0. `released` gives a mean only.
    """

    mean: NDArray[np.float32]
    sd: NDArray[np.float32] | None = None
    process: NDArray[np.float32] | None = None


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
    mode = model.transfer if context is None else model.recovery
    centre = Centre(model.gene_mean, _mean_picture(sites)) if context is None else Centre.of(context)
    process = _recall(model) if context is None else _condition_on(model, context, centre)
    expression, sd, alone = (np.empty((len(sites), model.sizes.genes), np.float32) for _ in range(3))
    with computing(compute) as machine:
        ensemble = Ensemble.of(model, machine, centre)
        spots = ensemble.section(sites) if context is None else ensemble.spots(context)
        for rows in _blocks(len(sites), process.n_spots):
            block = sites.at(rows)
            pictures = model.basis(Pictures.of(block).minus(centre.pictures))
            mean, variance = process.at(pictures, block.xy_um)
            mixed = mode.mix.blend(mean, ensemble.scores(block, spots))
            expression[rows], alone[rows] = (_expression(model, centre, scores) for scores in (mixed, mean))
            sd[rows] = np.sqrt(model.programs.decode_variance(variance) + mode.mix.gene_noise)
    return Predicted(expression, sd, alone)


def _mean_picture(sites: SiteSource) -> Pictures:
    return Pictures.stack([Pictures.of(part) for part in iter_chunks(sites, CHUNK)]).centre()


def _expression(model: SpamcafModel, centre: Centre, scores: Array) -> NDArray[np.float32]:
    # The decoder is linear and knows no zero, below which there is no expression.
    return np.maximum(centre.expression + model.programs.decode(scores), 0).astype(np.float32)


def _blocks(n_sites: int, n_spots: int) -> list[slice]:
    size = min(CHUNK, max(1, BLOCK_NUMBERS // n_spots))
    return [slice(start, start + size) for start in range(0, n_sites, size)]


def _recall(model: SpamcafModel) -> Process | NearestProcess:
    """Condition the process on what is recalled of all sections, places left aside."""
    return _conditioned(model, model.transfer, model.memory, has_places=False)


def _condition_on(model: SpamcafModel, context: Measured, centre: Centre) -> Process | NearestProcess:
    """Condition the process on the spots of the section itself and on what is recalled of others."""
    others = model.memory.others()
    here = model.basis(Pictures.of(context.sites).minus(centre.pictures))
    known = Memory(
        Pictures.stack([here, others.pictures]),
        np.concatenate([model.programs.scores(context.expression - centre.expression), others.scores]),
        np.concatenate([context.depth, others.depth]),
        np.concatenate([np.full(len(context), HOME), others.section]),
        np.concatenate([context.sites.xy_um, others.xy_um]),
    )
    return _conditioned(model, model.recovery, known, has_places=True)


def _conditioned(model: SpamcafModel, mode: Mode, known: Memory, *, has_places: bool) -> Process | NearestProcess:
    if len(known) > model.fit.max_exact_spots:
        return condition_on_many(known, model.pitch_um, mode.hyper, has_places=has_places)
    xy_um = known.xy_um if has_places else None
    kernels = Kernels.on(known.pictures, xy_um, known.section, model.pitch_um)
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
    centre: Centre

    @classmethod
    def of(cls, model: SpamcafModel, machine: Machine, centre: Centre) -> Ensemble:
        """Return the networks of `model` on the machine, ready to predict the section with the means `centre`."""
        shape = network_shape(model.sizes.components, model.sizes.programs, model.network)
        return cls(model, tuple(_load(SpamcafNetwork(shape), t, machine) for t in model.networks), machine, centre)

    def spots(self, context: Measured) -> tuple[SpotView, Sites]:
        """Return the view of measured spots, and where they are."""
        centred = context.expression - self.centre.expression
        scores = self.model.programs.scores(centred) / self.model.score_scale
        return SpotView(self._view(context.sites, context.sites), self._tensor(scores)), context.sites

    def section(self, sites: SiteSource) -> tuple[SpotView, None]:
        """Return the view of a section without measurements or positions: its pictures."""
        view = SiteView.stack([self._view(part, sites) for part in iter_chunks(sites, CHUNK)]).without_places()
        return SpotView(view, torch.zeros(len(sites), self.model.sizes.programs, device=self.machine.device)), None

    @torch.no_grad()
    def scores(self, sites: Sites, spots: tuple[SpotView, Sites | None]) -> Array:
        """Return the mean network's program scores (site, program); 0 without a network, which has no share then."""
        if not self.networks:
            return np.zeros((len(sites), self.model.sizes.programs))
        view, places = spots
        if places is None:
            block = self._view(sites, sites).without_places()
            index = np.empty((len(sites), 0), np.intp)
        else:
            block = self._view(sites, places)
            index = nearest(sites.xy_um, places.xy_um, self.model.network.n_context)
        rows = torch.from_numpy(index).to(self.machine.device)
        given = view.around(block, slice(None), rows, torch.ones_like(rows, dtype=torch.bool))
        with self.machine.autocast():
            out = torch.stack([network(given).fusion.float() for network in self.networks]).mean(0)
        return out.cpu().numpy().astype(np.float64) * self.model.score_scale

    def _view(self, sites: Sites, spots: SiteSource) -> SiteView:
        centre, origin_um = self.centre.pictures.surround, spots.xy_um.mean(axis=0)
        return SiteView.of(sites, centre, origin_um, self.model.projection, self.machine.device)

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.machine.device)


def _load(network: SpamcafNetwork, tensors: Tensors, machine: Machine) -> SpamcafNetwork:
    network.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()})
    return network.to(machine.device).eval()

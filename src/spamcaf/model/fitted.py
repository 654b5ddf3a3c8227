"""The fitted model: everything needed to predict again, as plain arrays and a little JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.model.data import Basis, ImageFeatures, Projection, ReferenceSpots
from spamcaf.model.gaussian_process import IMAGE_KERNELS, SPACE_KERNELS, Hyperparameters
from spamcaf.model.mixing import Stacking
from spamcaf.model.network import SpamcafNetwork
from spamcaf.model.programs import Programs
from spamcaf.model.training import network_shape
from spamcaf.parameters import FitSettings, NetworkSettings

FORMAT = "3"

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ModeParameters:
    """How to predict in one situation: the process' hyperparameters, and the mix with the network."""

    hyper: Hyperparameters
    stacking: Stacking


@dataclass(frozen=True)
class Sizes:
    """The sizes that all arrays of a model follow from."""

    genes: int
    programs: int
    features: int
    components: int
    directions: int
    spots: int
    folds: int


@dataclass(frozen=True)
class SpamcafModel:
    """A fitted model.

    `within_section` serves sites among measured spots, `new_section` sections that were never measured. `score_scale`
    (program,) is the unit of the networks' scores; `networks` are the weights of one network per fold. `gene_mean`
    (gene,) is the mean expression of a section that was never measured.
    """

    gene_mean: NDArray[np.float64]
    programs: Programs
    within_section: ModeParameters
    new_section: ModeParameters
    basis: Basis
    projection: Projection
    score_scale: NDArray[np.float64]
    networks: tuple[Tensors, ...]
    reference_spots: ReferenceSpots
    pitch_um: float
    fit: FitSettings
    network: NetworkSettings

    @property
    def sizes(self) -> Sizes:
        """The sizes that the arrays follow from."""
        return Sizes(
            genes=len(self.gene_mean),
            programs=len(self.programs),
            features=len(self.projection.mean),
            components=len(self.projection.axes),
            directions=len(self.basis.axes),
            spots=len(self.reference_spots.depth),
            folds=len(self.networks),
        )

    def to_tensors(self) -> Tensors:
        """Return all arrays by name."""
        return dict(self._named())

    def _named(self) -> Iterator[tuple[str, NDArray[Any]]]:
        yield "gene_mean", self.gene_mean
        for name in ("gene_scale", "loadings", "signal_fraction"):
            yield f"programs.{name}", getattr(self.programs, name)
        for name, mode in (("within_section", self.within_section), ("new_section", self.new_section)):
            yield f"{name}.weights", mode.hyper.weights
            yield f"{name}.noise", mode.hyper.noise
            yield f"{name}.mix", mode.stacking.weights
            yield f"{name}.gene_noise", mode.stacking.gene_noise
        yield "basis.axes", self.basis.axes
        yield "projection.mean", self.projection.mean
        yield "projection.axes", self.projection.axes
        yield "score_scale", self.score_scale
        yield "reference_spots.target", self.reference_spots.image_features.target
        yield "reference_spots.neighbourhood", self.reference_spots.image_features.neighbourhood
        yield "reference_spots.residual_norm2", self.reference_spots.image_features.residual_norm2
        yield "reference_spots.scores", self.reference_spots.scores
        yield "reference_spots.depth", self.reference_spots.depth
        yield "reference_spots.section", self.reference_spots.section
        yield "reference_spots.xy_um", self.reference_spots.xy_um
        for fold, tensors in enumerate(self.networks):
            for name, tensor in tensors.items():
                yield f"network.{fold}.{name}", tensor

    def metadata(self) -> dict[str, str]:
        """Return what is no array, as texts (JSON where it has parts)."""
        scalars = {
            "pitch_um": self.pitch_um,
            "projection_scale": self.projection.scale,
            "within_section_depth": self.within_section.hyper.reference_depth,
            "new_section_depth": self.new_section.hyper.reference_depth,
        }
        return {
            "spamcaf_model": FORMAT,
            "sizes": json.dumps(vars(self.sizes)),
            "scalars": json.dumps(scalars),
            "fit": self.fit.model_dump_json(),
            "network": self.network.model_dump_json(),
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, metadata: dict[str, str]) -> SpamcafModel:
        """Return the model of `to_tensors()` and `metadata()`.

        Raises InputError if a tensor is missing, unknown, of the wrong shape or not finite, or the format is another.
        """
        if metadata.get("spamcaf_model") != FORMAT:
            found = metadata.get("spamcaf_model")
            raise InputError(
                f"a model of format {found!r}.", f"a SpaMCAF model of format {FORMAT}.", "Fit the model again."
            )
        sizes = Sizes(**json.loads(metadata["sizes"]))
        fit = FitSettings.model_validate_json(metadata["fit"])
        network = NetworkSettings.model_validate_json(metadata["network"])
        check_tensors(tensors, _expected_shapes(sizes, network))
        return cls(**_parts(tensors, sizes, json.loads(metadata["scalars"])), fit=fit, network=network)


def _parts(tensors: Tensors, sizes: Sizes, scalars: dict[str, float]) -> dict[str, Any]:
    def mode(name: str) -> ModeParameters:
        hyper = Hyperparameters(tensors[f"{name}.weights"], tensors[f"{name}.noise"], scalars[f"{name}_depth"])
        return ModeParameters(hyper, Stacking(tensors[f"{name}.mix"], tensors[f"{name}.gene_noise"]))

    def network(fold: int) -> Tensors:
        prefix = f"network.{fold}."
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    return {
        "gene_mean": tensors["gene_mean"],
        "programs": Programs(*(tensors[f"programs.{n}"] for n in ("gene_scale", "loadings", "signal_fraction"))),
        "within_section": mode("within_section"),
        "new_section": mode("new_section"),
        "basis": Basis(tensors["basis.axes"]),
        "projection": Projection(tensors["projection.mean"], tensors["projection.axes"], scalars["projection_scale"]),
        "score_scale": tensors["score_scale"],
        "networks": tuple(network(fold) for fold in range(sizes.folds)),
        "reference_spots": ReferenceSpots(
            ImageFeatures(
                tensors["reference_spots.target"],
                tensors["reference_spots.neighbourhood"],
                tensors["reference_spots.residual_norm2"],
            ),
            tensors["reference_spots.scores"],
            tensors["reference_spots.depth"],
            tensors["reference_spots.section"],
            tensors["reference_spots.xy_um"],
        ),
        "pitch_um": scalars["pitch_um"],
    }


def _expected_shapes(sizes: Sizes, network: NetworkSettings) -> dict[str, tuple[int, ...]]:
    genes, programs, features, spots = sizes.genes, sizes.programs, sizes.features, sizes.spots
    shapes: dict[str, tuple[int, ...]] = {
        "gene_mean": (genes,),
        "programs.gene_scale": (genes,),
        "programs.loadings": (programs, genes),
        "programs.signal_fraction": (programs,),
        "projection.mean": (features,),
        "projection.axes": (sizes.components, features),
        "score_scale": (programs,),
        "basis.axes": (sizes.directions, features),
        "reference_spots.target": (spots, sizes.directions),
        "reference_spots.neighbourhood": (spots, sizes.directions),
        "reference_spots.residual_norm2": (spots, 2),
        "reference_spots.scores": (spots, programs),
        "reference_spots.depth": (spots,),
        "reference_spots.section": (spots,),
        "reference_spots.xy_um": (spots, 2),
    }
    n_kernels = {"within_section": len(IMAGE_KERNELS + SPACE_KERNELS), "new_section": len(IMAGE_KERNELS)}
    for mode, n in n_kernels.items():
        shapes |= {f"{mode}.weights": (programs, n), f"{mode}.noise": (programs,)}
        shapes |= {f"{mode}.mix": (programs,), f"{mode}.gene_noise": (genes,)}
    return shapes | _network_shapes(sizes, network)


def _network_shapes(sizes: Sizes, network: NetworkSettings) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        state = SpamcafNetwork(network_shape(sizes.components, sizes.programs, network)).state_dict()
    return {f"network.{fold}.{n}": tuple(t.shape) for fold in range(sizes.folds) for n, t in state.items()}


def check_tensors(tensors: Tensors, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise InputError unless `tensors` are those of `shapes`, of these shapes and finite."""
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or unknown:
        raise InputError(
            f"tensors missing {missing[:5]} and unknown {unknown[:5]}.",
            f"the {len(shapes)} tensors of this model.",
            "The file is incomplete or not of this version: fit the model again.",
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"tensor {name} of shape {tensors[name].shape}.",
                f"shape {shape}.",
                "Weights and settings do not belong together: fit the model again.",
            )
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"NaN or Inf in tensor {name}.", "finite numbers.", "Fit the model again.")

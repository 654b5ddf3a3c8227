"""The fitted model: everything needed to predict again, as nested dataclasses, and as arrays and texts of a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from spamcaf.errors import InputError
from spamcaf.model.data import FeaturePCA, ReferenceSpots
from spamcaf.model.depth import ExpressionMeans
from spamcaf.model.gaussian_process import IMAGE_KERNELS, SPACE_KERNELS, Hyperparameters
from spamcaf.model.mixing import Stacking
from spamcaf.model.network import SpamcafNetwork
from spamcaf.model.programs import Programs
from spamcaf.model.training import Tensors, network_shape
from spamcaf.parameters import FitSettings, NetworkSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

FORMAT = "4"
KIND = "spamcaf_model"
"""The text by which a file states that it holds this model, and of which format."""
VALUES = "values"
LARGEST = 1e12
"""Number in a model. Coordinates and depths, the largest of a fit, stay below 1e6; far larger ones may overflow."""


@dataclass(frozen=True)
class ModeParameters:
    """What differs between predicting among measured spots and on a new section."""

    hyper: Hyperparameters
    stacking: Stacking


@dataclass(frozen=True)
class SpamcafModel:
    """A fitted model, all that `predict_spamcaf` needs beside the sites and their context."""

    means: ExpressionMeans  # of a section that was never measured
    programs: Programs
    own_genes: NDArray[np.int64]  # (own gene,) indices of the genes that have a process of their own
    within_section: ModeParameters  # for sites among measured spots
    new_section: ModeParameters  # for sections that were never measured
    kernel_pca: FeaturePCA  # from backbone features to the components of the image kernels
    network_pca: FeaturePCA  # and to those of the networks
    score_scale: NDArray[np.float64]  # (program,) unit of the networks' scores
    networks: tuple[Tensors, ...]  # weights by name, one network per fold
    reference_spots: ReferenceSpots
    pitch_um: float
    fit: FitSettings
    network: NetworkSettings

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes that the arrays follow from."""
        return {
            "gene": self.programs.n_predicted,
            "program_gene": len(self.means.rate),
            "program": len(self.programs),
            "score": 1 + len(self.programs),
            "own_gene": len(self.own_genes),
            "column": 1 + len(self.programs) + len(self.own_genes),
            "covariance": len(self.within_section.hyper),
            "feature": len(self.network_pca.mean),
            "component": len(self.network_pca.axes),
            "kernel_component": len(self.kernel_pca.axes),
            "spot": len(self.reference_spots),
            "fold": len(self.networks),
        }

    def to_tensors(self) -> Tensors:
        """Return all arrays by name, nested fields joined by dots."""
        return flatten(self)[0]

    def metadata(self) -> dict[str, str]:
        """Return what is no array, as texts."""
        return {KIND: FORMAT, "sizes": json.dumps(self.sizes), VALUES: json.dumps(flatten(self)[1])}

    @classmethod
    def from_tensors(cls, tensors: Tensors, metadata: dict[str, str]) -> SpamcafModel:
        """Return the model of `to_tensors()` and `metadata()`.

        Raises InputError if a tensor is missing, unknown, of the wrong shape or type or not finite, or the format is
        another; ValueError, KeyError or TypeError if a text is not as it was written.
        """
        require_format(metadata, KIND, FORMAT, "SpaMCAF")
        sizes, values = read_sizes(metadata["sizes"], tensors), json.loads(metadata[VALUES])
        network = NetworkSettings.model_validate(values["network"])
        if sizes["fold"] and max(network.depth, network.width, network.n_summary) > _largest(tensors):
            raise ValueError("its networks are smaller than its settings")  # which building one by would take for ever
        shapes = _expected_shapes(sizes, network)
        if FitSettings.model_validate(values["fit"]).finetune:  # theirs are the backbone's, which takes them strictly
            shapes |= {name: array.shape for name, array in tensors.items() if ".last_blocks." in name}
        check_tensors(tensors, shapes)
        model = unflatten(cls, tensors, values)
        if model.sizes != sizes:
            raise ValueError("its numbers do not belong to its arrays")
        hypers = (model.within_section.hyper, model.new_section.hyper)
        ranges = [(model.own_genes, sizes["gene"]), *((hyper.covariance_of, len(hyper)) for hyper in hypers)]
        if any(len(indices) and not 0 <= indices.min() <= indices.max() < n for indices, n in ranges):
            raise ValueError("an index in it points to nothing")
        variances = [(hyper.weights.min(initial=0) >= 0, hyper.noise.min(initial=1) > 0) for hyper in hypers]
        scales = (model.pitch_um, model.kernel_pca.scale, model.network_pca.scale, *(h.reference_depth for h in hypers))
        if not np.all(variances) or min(scales) <= 0:
            raise ValueError("a variance or scale in it is below 0")
        return model


SHAPES = {
    "means.rate": ("program_gene",),
    "means.residual": ("program_gene",),
    "means.expression": ("program_gene",),
    "programs.gene_scale": ("program_gene",),
    "programs.loadings": ("program", "program_gene"),
    "programs.signal_fraction": ("program",),
    "kernel_pca.mean": ("feature",),
    "kernel_pca.axes": ("kernel_component", "feature"),
    "network_pca.mean": ("feature",),
    "network_pca.axes": ("component", "feature"),
    "own_genes": ("own_gene",),
    "score_scale": ("score",),
    "reference_spots.image_features.target": ("spot", "kernel_component"),
    "reference_spots.image_features.neighbourhood": ("spot", "kernel_component"),
    "reference_spots.image_features.residual_norm2": ("spot", "image_kernel"),
    "reference_spots.scores": ("spot", "column"),
    "reference_spots.depth": ("spot",),
    "reference_spots.section": ("spot",),
    "reference_spots.xy_um": ("spot", "axis"),
    "within_section.hyper.weights": ("covariance", "within_section_kernel"),
    "within_section.hyper.noise": ("covariance",),
    "within_section.hyper.covariance_of": ("column",),
    "new_section.hyper.weights": ("score", "new_section_kernel"),
    "new_section.hyper.noise": ("score",),
    "new_section.hyper.covariance_of": ("score",),
    **{f"{mode}.stacking.network_weight": ("score",) for mode in ("within_section", "new_section")},
    **{f"{mode}.stacking.gene_weight": ("own_gene",) for mode in ("within_section", "new_section")},
    **{f"{mode}.stacking.gene_noise": ("gene",) for mode in ("within_section", "new_section")},
}
"""Dimensions of each array of a model, the networks aside."""

INDICES = ("own_genes", "covariance_of", "reference_spots.section", "num_batches_tracked")
"""How names of arrays end that hold indices or counters, the last in a convolutional backbone's last blocks."""

KERNELS = {"within_section": IMAGE_KERNELS + SPACE_KERNELS, "new_section": IMAGE_KERNELS}
"""Names of the kernels of each mode, in the order of their weights."""


PROGRAM_COLUMNS = (
    "program",
    "signal_fraction",
    *(f"{mode}_{part}" for mode in KERNELS for part in ("network_weight", *KERNELS[mode], "noise")),
)
"""Columns of the program log: number of the program, 0 for log depth; share of its variance that is signal; then,
among measured spots (within_section) and without any (new_section), the network's weight in the stacking, and the
Gaussian process' kernel weights and noise, variances in squared scores."""


def program_rows(model: SpamcafModel) -> list[dict[str, Any]]:
    """Return a row of `PROGRAM_COLUMNS` for the depth, then one per gene program."""
    fractions = [1.0, *model.programs.signal_fraction.tolist()]
    within, new = model.within_section, model.new_section
    return [
        dict(zip(PROGRAM_COLUMNS, (j, fraction, *_of_mode(within, j), *_of_mode(new, j)), strict=True))
        for j, fraction in enumerate(fractions)
    ]


def _of_mode(mode: ModeParameters, program: int) -> list[float]:
    weights = mode.hyper.weights[program].tolist()
    return [float(mode.stacking.network_weight[program]), *weights, float(mode.hyper.noise[program])]


def _expected_shapes(sizes: dict[str, int], network: NetworkSettings) -> dict[str, tuple[int, ...]]:
    import torch

    kernels = {f"{mode}_kernel": len(names) for mode, names in KERNELS.items()}
    sizes = {**sizes, **kernels, "image_kernel": len(IMAGE_KERNELS), "axis": 2}
    shapes = {name: tuple(sizes[dimension] for dimension in shape) for name, shape in SHAPES.items()}
    if not sizes["fold"]:
        return shapes
    with torch.device("meta"):
        state = SpamcafNetwork(network_shape(sizes["component"], sizes["score"], network)).state_dict()
    return shapes | {f"networks.{fold}.{n}": tuple(t.shape) for fold in range(sizes["fold"]) for n, t in state.items()}


def flatten(value: DataclassInstance) -> tuple[Tensors, dict[str, Any]]:
    """Return a nested dataclass as arrays by dotted name, and all other values, settings as plain data.

    A field is an array, a dataclass, a tuple of dicts of arrays, a pydantic model or a plain value.
    """
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for field in fields(value):
        name, part = field.name, getattr(value, field.name)
        if isinstance(part, np.ndarray):
            tensors[name] = part
        elif isinstance(part, tuple):
            tensors |= {f"{name}.{i}.{key}": array for i, arrays in enumerate(part) for key, array in arrays.items()}
            values[name] = len(part)
        elif is_dataclass(part) and not isinstance(part, type):
            inner, rest = flatten(part)
            tensors |= {f"{name}.{key}": array for key, array in inner.items()}
            values |= {f"{name}.{key}": plain for key, plain in rest.items()}
        else:
            values[name] = part.model_dump(mode="json") if isinstance(part, BaseModel) else part
    return tensors, values


def unflatten(kind: type[T], tensors: Tensors, values: dict[str, Any], prefix: str = "") -> T:
    """Return the dataclass `kind` that `flatten` gave `tensors` and `values` of."""
    parts: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        if name in tensors:
            parts[field.name] = tensors[name]
        elif isinstance(hint, type) and is_dataclass(hint):
            parts[field.name] = unflatten(hint, tensors, values, f"{name}.")
        elif isinstance(hint, type) and issubclass(hint, BaseModel):
            parts[field.name] = hint.model_validate(values[name])
        elif hint in (int, float):
            if type(values[name]) not in {int, hint} or not abs(values[name]) <= LARGEST:
                raise ValueError(f"{name} is {str(values[name])[:20]}")
            parts[field.name] = hint(values[name])
        elif get_origin(hint) is tuple:
            if values[name] not in range(len(tensors) + 1):
                raise ValueError(f"{name} is {str(values[name])[:20]}")
            begins = [f"{name}.{i}." for i in range(values[name])]
            parts[field.name] = tuple(
                {key.removeprefix(begin): t for key, t in tensors.items() if key.startswith(begin)} for begin in begins
            )
        else:
            parts[field.name] = values[name]
    return kind(**parts)


def require_format(metadata: dict[str, str], kind: str, expected: str, name: str) -> None:
    """Raise InputError unless a file's texts state a model of `kind` and of the `expected` format."""
    found = metadata.get(kind)
    if found != expected:
        raise InputError(
            f"a model of format {found!r}, of another version of spamcaf.",
            f"a {name} model of format {expected}.",
            "Fit the model again: kedro run --pipelines training, with the same --env and --params.",
        )


def read_sizes(text: str, tensors: Tensors) -> dict[str, int]:
    """Return the sizes that a file states, by name; ValueError where one is larger than anything in the file."""
    sizes = json.loads(text)
    if not isinstance(sizes, dict):
        raise ValueError("its sizes have no names")
    largest = _largest(tensors)
    for name, size in sizes.items():
        if type(size) is not int or not 0 <= size <= largest:
            raise ValueError(f"the size {name} is {str(size)[:20]}")
    return sizes


def _largest(tensors: Tensors) -> int:
    return max([len(tensors), *(size for tensor in tensors.values() for size in tensor.shape)])


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
        if tensors[name].dtype.kind != ("i" if name.endswith(INDICES) else "f"):
            raise InputError(
                f"tensor {name} of {tensors[name].dtype}.",
                "indices as whole numbers, all others as fractions.",
                "The file is not as it was written: fit the model again.",
            )
        if not (np.abs(tensors[name]) <= LARGEST).all():
            found = f"NaN or Inf in tensor {name}, or a number beyond {LARGEST:g}."
            raise InputError(found, "numbers as a fit gives them.", "Fit the model again.")


def require_n_features(expected: int, features: NDArray[np.float32]) -> None:
    """Raise InputError unless `features` (site, feature) are as many as the model was fitted with."""
    found = features.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} features per tile.",
            f"{expected} features, as the model was fitted with.",
            "Embed the sites with the model's own backbone.",
        )

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

        Raises InputError if a tensor is missing, unknown, of the wrong shape or not finite, or the format is another.
        """
        require_format(metadata, KIND, FORMAT, "SpaMCAF")
        sizes, values = json.loads(metadata["sizes"]), json.loads(metadata[VALUES])
        network = NetworkSettings.model_validate(values["network"])
        shapes = _expected_shapes(sizes, network)
        if values["fit"].get("finetune"):  # theirs are the backbone's, which takes them strictly when it is loaded
            shapes |= {name: array.shape for name, array in tensors.items() if ".last_blocks." in name}
        check_tensors(tensors, shapes)
        return unflatten(cls, tensors, values)


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
    with torch.device("meta"):
        state = SpamcafNetwork(network_shape(sizes["component"], sizes["score"], network)).state_dict()
    shapes = {name: tuple(sizes[dimension] for dimension in shape) for name, shape in SHAPES.items()}
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
        elif get_origin(hint) is tuple:
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


def require_n_features(expected: int, features: NDArray[np.float32]) -> None:
    """Raise InputError unless `features` (site, feature) are as many as the model was fitted with."""
    found = features.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} features per tile.",
            f"{expected} features, as the model was fitted with.",
            "Embed the sites with the model's own backbone.",
        )

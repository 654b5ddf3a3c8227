"""A fitted model of any kind, with the names of its genes and the record of what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError
from spamcaf.model.fitted import ModeParameters, SpamcafModel, Tensors
from spamcaf.model.gaussian_process import IMAGE_KERNELS, SPACE_KERNELS
from spamcaf.model.released import KIND, ReleasedModel

if TYPE_CHECKING:
    from spamcaf.histology.features import FeatureKey

FittedModel = SpamcafModel | ReleasedModel


def read_model(tensors: Tensors, metadata: dict[str, str]) -> FittedModel:
    """Return the model of `to_tensors()` and `metadata()`, of the kind that the metadata names.

    Raises InputError as `from_tensors` of that kind does.
    """
    kind = ReleasedModel if KIND in metadata else SpamcafModel
    return kind.from_tensors(tensors, metadata)


@dataclass(frozen=True)
class TrainedModel:
    """What the catalog keeps of a training.

    `record` is plain data: the model's name, the section, its spots, backbone and view of the features, settings, seed
    and version.
    """

    model: FittedModel
    genes: tuple[str, ...]
    gene_ids: tuple[str, ...]
    record: dict[str, Any]

    def require_features(self, key: FeatureKey) -> None:
        """Raise InputError unless features of `key` are of the kind that the model was trained on."""
        for what, ours, theirs in (
            ("backbone", self.record["backbone"], key.backbone),
            ("tiles", self.record["view"], key.view),
        ):
            if ours != theirs:
                raise InputError(
                    f"features of another {what} ({theirs}) than the model was trained on ({ours}).",
                    "the same.",
                    "Run feature_extraction and training again with the same settings.",
                )

    def require_genes(self, genes: list[str]) -> None:
        """Raise InputError unless `genes` is the model's panel, in its order."""
        if tuple(genes) != self.genes:
            raise InputError(
                f"an expression matrix of {len(genes)} genes that is not the model's panel of {len(self.genes)}.",
                "the panel that the model was trained on.",
                "Run the pipeline training again: the panel or the split has changed since.",
            )

    def require_spots(self, spots_hash: str) -> None:
        """Raise InputError unless it was trained on these very spots: on another split it has seen hidden ones."""
        if self.record["spots"] != spots_hash:
            raise InputError(
                "a model that was trained on other spots.",
                "the split that is stored now.",
                "Run the pipeline training again.",
            )


KERNELS = {"within_section": IMAGE_KERNELS + SPACE_KERNELS, "new_section": IMAGE_KERNELS}

COLUMNS = (
    "program",
    "signal_fraction",
    *(f"{mode}_{part}" for mode in KERNELS for part in ("network_weight", *KERNELS[mode], "noise")),
)
"""Number of the program from 0; share of its variance that is signal; then for recovery, among measured spots, and for
transfer, on sections without any: the network's share in the mix, and the process' kernel weights and noise, variances
in squared scores."""


def program_rows(model: FittedModel) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` per program; none for a model without programs."""
    if not isinstance(model, SpamcafModel):
        return []
    modes = {"within_section": model.within_section, "new_section": model.new_section}
    return [
        {"program": number, "signal_fraction": float(signal_fraction)}
        | {name: value for mode, how in modes.items() for name, value in _decided(mode, how, number).items()}
        for number, signal_fraction in enumerate(model.programs.signal_fraction)
    ]


def _decided(mode: str, how: ModeParameters, number: int) -> dict[str, float]:
    weights = dict(zip(KERNELS[mode], how.hyper.weights[number].tolist(), strict=True))
    values = {"network_weight": float(how.stacking.weights[number]), **weights, "noise": float(how.hyper.noise[number])}
    return {f"{mode}_{name}": value for name, value in values.items()}

"""A fitted model with the names of its genes and the record of what it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError

if TYPE_CHECKING:
    from spamcaf.histology.features import FeatureKey
    from spamcaf.learning.models import FittedModel


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

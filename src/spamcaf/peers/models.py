"""The models that a run may fit, SpaMCAF and published peers, under one interface: predict, store, and check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError
from spamcaf.model.draws import draw_expression
from spamcaf.model.fitted import SpamcafModel
from spamcaf.model.predict import Predicted, predict_spamcaf
from spamcaf.model.training import Tensors
from spamcaf.parameters import ComputeSettings, InferenceSettings
from spamcaf.peers import released
from spamcaf.peers.released import ReleasedModel
from spamcaf.sections.sites import Measured, SiteSource

if TYPE_CHECKING:
    from spamcaf.histology.backbone import LastBlocks
    from spamcaf.histology.features import FeatureKey

FittedModel = SpamcafModel | ReleasedModel
GENES, GENE_IDS = "genes", "gene_ids"
LARGEST_NUMBER = 2**63
RECORDED = ("spots", "program_genes", "backbone", "view")
"""What a model is checked by before it is applied."""


def predict(
    model: FittedModel,
    context: Measured | None,
    sites: SiteSource,
    compute: ComputeSettings,
    inference: InferenceSettings | None = None,
    seed: int = 0,
    last_blocks: LastBlocks | None = None,
) -> Predicted:
    """Predict expression at sites with a model of any kind, see `predict_spamcaf`; `released` uses no context.

    With `inference` it draws from the posterior too, see `draw_expression`; `released` has none.
    """
    n_draws = inference.n_draws if inference else 0
    if isinstance(model, ReleasedModel):
        if n_draws:
            raise InputError(
                f"inference.n_draws={n_draws} with the model `released`.",
                "a model that knows its uncertainty.",
                "Fit spamcaf (fit.model=spamcaf), or set inference.n_draws to 0.",
            )
        return Predicted(released.predict_released(model, sites, compute))
    predicted = predict_spamcaf(model, context, sites, compute, last_blocks)
    if inference is None or not n_draws:
        return predicted
    draws = draw_expression(model, context, sites, predicted.mean, n_draws, inference.draw_noise, seed)
    return replace(predicted, draws=draws)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_plain(value: object) -> bool:
    """Tell whether a value of a record can be stored as h5ad: by name, a text, a number, or a list of texts."""
    if isinstance(value, dict):
        return all(_is_text(name) and name and _is_plain(part) for name, part in value.items())
    if isinstance(value, list):
        return all(map(_is_text, value))
    return value is None or _is_text(value) or (isinstance(value, int | float) and abs(value) < LARGEST_NUMBER)


@dataclass(frozen=True)
class TrainedModel:
    """What the catalog stores of a training.

    `genes` and `gene_ids` are the gene panel in the order of the model's arrays. `record` is plain data: the model's
    name, the section, a hash of its spots, backbone and view of the features, settings, seed and package version.
    """

    model: FittedModel
    genes: tuple[str, ...]
    gene_ids: tuple[str, ...]
    record: dict[str, Any]

    @property
    def n_finetuned(self) -> int:
        """Last blocks of the backbone that the model has weights of its own for."""
        return self.model.fit.finetune if isinstance(self.model, SpamcafModel) else 0

    @classmethod
    def from_tensors(
        cls, tensors: Tensors, metadata: dict[str, str], genes: list[str], gene_ids: list[str], record: dict[str, Any]
    ) -> TrainedModel:
        """Return the model of the kind that the metadata states.

        Raises InputError as its `from_tensors` does, and ValueError where panel or record are not what was stored.
        """
        kind = ReleasedModel if released.KIND in metadata else SpamcafModel
        model: FittedModel = kind.from_tensors(tensors, metadata)
        n_genes = model.shape.n_genes if isinstance(model, ReleasedModel) else model.sizes["gene"]
        for what, names in ((GENES, genes), (GENE_IDS, gene_ids)):
            if not isinstance(names, list) or len(names) != n_genes or not all(map(_is_text, names)):
                raise ValueError(f"its {what} are not {n_genes} names, one for each that it predicts")
        if len(set(genes)) < n_genes:
            raise ValueError("a gene is there twice")
        if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in RECORDED):
            raise ValueError(f"its record lacks one of {', '.join(RECORDED)}")
        if not _is_plain(record):  # it goes into each prediction, as h5ad
            raise ValueError("its record holds more than names, numbers and texts")
        return cls(model, tuple(genes), tuple(gene_ids), record)

    def require_features(self, key: FeatureKey) -> None:
        """Raise InputError unless features of `key` are of the backbone and tiles that the model was trained on."""
        for what, name, theirs in (("backbone", "backbone", key.backbone), ("tiles", "view", key.view)):
            if (ours := self.record[name]) != theirs:
                found = f"features of another {what} ({theirs}) than the model was trained on ({ours})."
                next_step = "Run feature_extraction and training again with the same settings."
                raise InputError(found, "the same.", next_step)

    def require_genes(self, genes: list[str], program_genes: str) -> None:
        """Raise InputError unless `genes` is the model's panel, in its order.

        `program_genes` is the hash of those that gene programs are learned from.
        """
        if tuple(genes) != self.genes or program_genes != self.record["program_genes"]:
            raise InputError(
                f"an expression matrix of {len(genes)} genes that is not of the model's panel of {len(self.genes)}, or "
                "with other genes for programs.",
                "the genes that the model was trained on.",
                "Run the pipeline training again: the panel or the split has changed since.",
            )

    def require_spots(self, spots_hash: str) -> None:
        """Raise InputError unless it was trained on these very spots: on another split it has seen hidden ones."""
        if self.record["spots"] != spots_hash:
            found = "a model that was trained on other spots."
            raise InputError(found, "the split that is stored now.", "Run the pipeline training again.")

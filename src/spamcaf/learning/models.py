"""The models that a run may fit, under one interface: `to_tensors`, `metadata`, and `prediction.predict`."""

from __future__ import annotations

from spamcaf.learning.model import SpamcafModel, Tensors
from spamcaf.learning.released.model import KIND, ReleasedModel

FittedModel = SpamcafModel | ReleasedModel


def read_model(tensors: Tensors, metadata: dict[str, str]) -> FittedModel:
    """Return the model of `to_tensors()` and `metadata()`, of the kind that the metadata names.

    Raises InputError as `from_tensors` of that kind does.
    """
    kind = ReleasedModel if KIND in metadata else SpamcafModel
    return kind.from_tensors(tensors, metadata)

"""The fitted replica of the released network: its weights and how it was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from spamcaf.errors import InputError
from spamcaf.learning.model import Tensors, check_tensors
from spamcaf.network.released import ReleasedNetwork, ReleasedShape
from spamcaf.parameters import ReleasedSettings

FORMAT = "1"
KIND = "released_model"
"""The text by which a file says that it holds this model."""

COUNTER = "num_batches_tracked"
"""Kept by torch's batch norms, read by none of ours: their momentum is fixed."""


@dataclass(frozen=True)
class ReleasedModel:
    """A fitted network: its `weights` by name, with the running means of the batch norms."""

    weights: Tensors
    shape: ReleasedShape
    settings: ReleasedSettings

    @classmethod
    def of(cls, network: ReleasedNetwork, shape: ReleasedShape, settings: ReleasedSettings) -> ReleasedModel:
        """Return the model of a trained network."""
        state = network.state_dict().items()
        weights = {name: tensor.cpu().numpy() for name, tensor in state if not name.endswith(COUNTER)}
        return cls(weights, shape, settings)

    def network(self) -> ReleasedNetwork:
        """Return the network, ready to predict."""
        import torch

        network = ReleasedNetwork(self.shape)
        counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(COUNTER)}
        network.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in self.weights.items()} | counters)
        return network.eval()

    def to_tensors(self) -> Tensors:
        """Return all arrays by name."""
        return dict(self.weights)

    def metadata(self) -> dict[str, str]:
        """Return what is no array, as texts."""
        sizes = json.dumps(vars(self.shape))
        return {KIND: FORMAT, "sizes": sizes, "settings": self.settings.model_dump_json()}

    @classmethod
    def from_tensors(cls, tensors: Tensors, metadata: dict[str, str]) -> ReleasedModel:
        """Return the model of `to_tensors()` and `metadata()`.

        Raises InputError if a tensor is missing, unknown, of the wrong shape or not finite, or the format is another.
        """
        if metadata.get(KIND) != FORMAT:
            found = metadata.get(KIND)
            raise InputError(
                f"a model of format {found!r}.", f"a `released` model of format {FORMAT}.", "Fit the model again."
            )
        shape = ReleasedShape(**json.loads(metadata["sizes"]))
        check_tensors(tensors, _expected_shapes(shape))
        return cls(tensors, shape, ReleasedSettings.model_validate_json(metadata["settings"]))


def _expected_shapes(shape: ReleasedShape) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        state = ReleasedNetwork(shape).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}

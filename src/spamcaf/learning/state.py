"""A training as far as it has come, as arrays that can be stored and taken up again to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Tensors = dict[str, NDArray[Any]]

Network = TypeVar("Network", bound=nn.Module)

NETWORK, OPTIMIZER, RANDOM_CPU, RANDOM_CUDA = "network.", "optimizer.", "random.cpu", "random.cuda"


@dataclass
class Training(Generic[Network]):
    """A network and its optimiser; `epoch` whole epochs are done, and all losses were finite or it has stopped."""

    network: Network
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    is_finite: bool = True

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.network.parameters()).device

    def step(self, rate: float) -> None:
        """Let the optimiser take a step at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the network's weights."""
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def to_tensors(self) -> Tensors:
        """Return weights, the optimiser's state and torch's randomness, by name."""
        return {name: tensor.cpu().numpy() for name, tensor in self._named()}

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self.network.state_dict().items():
            yield NETWORK + name, tensor
        for name, parameter in self.network.named_parameters():
            for part, tensor in self.optimizer.state[parameter].items():
                yield f"{OPTIMIZER}{name}.{part}", tensor
        yield RANDOM_CPU, torch.get_rng_state()
        if self.device.type == "cuda":
            yield RANDOM_CUDA, torch.cuda.get_rng_state(self.device)

    def restore(self, tensors: Tensors, epoch: int, *, is_finite: bool) -> None:
        """Go back to what `to_tensors()` gave after `epoch` epochs, torch's randomness included."""
        self.network.load_state_dict(self._of(tensors, NETWORK))
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = self._of(tensors, f"{OPTIMIZER}{name}.")
        self.epoch, self.is_finite = epoch, is_finite
        torch.set_rng_state(torch.from_numpy(tensors[RANDOM_CPU]))
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(tensors[RANDOM_CUDA]), self.device)

    def _of(self, tensors: Tensors, prefix: str) -> dict[str, Tensor]:
        found = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        return {name: torch.from_numpy(np.array(array)).to(self.device) for name, array in found.items()}

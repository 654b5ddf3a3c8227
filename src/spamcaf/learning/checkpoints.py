"""Where a fit leaves what it has done, so that a killed one goes on instead of beginning again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Checkpoint:
    """A state of a training: arrays by name, and `record`, plain data."""

    tensors: dict[str, NDArray[Any]]
    record: dict[str, Any]


class Checkpoints(Protocol):
    """A store of checkpoints by name, each with the key of everything that its training depends on."""

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return what is stored under `name`; None where there is nothing sound, or its key is another."""

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Store under `name`, replacing what was there, wholly or not at all."""

    def clear(self) -> None:
        """Remove all of them."""


class NoCheckpoints:
    """Keeps nothing."""

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return None."""
        return None

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Do nothing."""

    def clear(self) -> None:
        """Do nothing."""


def fingerprint(arrays: Mapping[str, NDArray[Any]], facts: Iterable[object]) -> str:
    """Return a hash of the content of arrays, by name, and of the texts of `facts`."""
    digest = hashlib.sha256("\n".join(map(str, facts)).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

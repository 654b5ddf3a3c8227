"""Keeping a training while it runs, and taking it up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from spamcaf import __version__
from spamcaf.compute import Machine
from spamcaf.learning.checkpoints import Checkpoint, Checkpoints, fingerprint
from spamcaf.learning.state import Training
from spamcaf.provenance import configuration_hash

Rows = list[dict[str, Any]]


def training_key(
    arrays: Mapping[str, NDArray[Any]], settings: tuple[BaseModel, ...], machine: Machine, seed: int
) -> str:
    """Return the hash of all that decides over weights: what is read, every setting, the seed, and where it runs."""
    where = (machine.device.type, machine.use_bf16, torch.get_num_threads(), torch.__version__)
    return fingerprint(arrays, (__version__, configuration_hash(*settings), *where, seed))


@dataclass(frozen=True)
class Keeper:
    """Keeps one training, with a row of its log per epoch, under a name and a key."""

    checkpoints: Checkpoints
    name: str
    key: str

    def resume(self, training: Training[Any]) -> Rows:
        """Take `training` to where it was kept last, if it was; return its log up to there."""
        found = self.checkpoints.load(self.name, self.key)
        if found is None:
            return []
        rows: Rows = found.record["log"]
        training.restore(found.tensors, len(rows), is_finite=found.record["is_finite"])
        return rows

    def keep(self, training: Training[Any], rows: Rows) -> None:
        """Keep `training` and its log as they are now."""
        record = {"log": rows, "is_finite": training.is_finite}
        self.checkpoints.save(self.name, self.key, Checkpoint(training.to_tensors(), record))

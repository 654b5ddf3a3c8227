"""The trained model and the checkpoints of its fit, as safetensors files."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

from spamcaf.atomic import replacing
from spamcaf.datasets.stored import StoredDataset
from spamcaf.datasets.tensors import checksum, read_tensors, write_tensors

if TYPE_CHECKING:
    from spamcaf.peers.models import TrainedModel
    from spamcaf.model.training import Checkpoint

logger = logging.getLogger(__name__)

KEY, CHECKPOINT_RECORD, CHECKSUM = "key", "record", "checksum"


class CheckpointFolder:
    """Checkpoints by name in a folder; each holds its key, and one of another key is not loaded but replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return what is stored under `name`; None where there is nothing, or it is damaged or of another key."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            found, checkpoint = _read(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("Checkpoint %s is damaged (%s): that part is trained again.", path, error)
            return None
        if found != key:
            logger.info("checkpoint %s is of other inputs or settings and is not used", path)
            return None
        return checkpoint

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Store under `name`; a kill meanwhile leaves the one before."""
        record = json.dumps(checkpoint.record)
        texts = {KEY: key, CHECKPOINT_RECORD: record, CHECKSUM: checksum(checkpoint.tensors, key, record)}
        with replacing(self._path(name)) as temporary:
            write_tensors(temporary, checkpoint.tensors, texts)

    def clear(self) -> None:
        """Remove all of them, and what a killed save left behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


class CheckpointsDataset(AbstractDataset[CheckpointFolder, Any]):
    """Load gives the store of checkpoints under `filepath`, empty or not; a node saves through it while it works."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> CheckpointFolder:
        return CheckpointFolder(self._folder)

    def save(self, data: object) -> None:
        raise DatasetError("Save through the store that load gives.")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._folder)}


def _read(path: Path) -> tuple[str, Checkpoint]:
    from spamcaf.model.training import Checkpoint

    tensors, texts = read_tensors(path)
    if checksum(tensors, texts[KEY], texts[CHECKPOINT_RECORD]) != texts[CHECKSUM]:
        raise ValueError("its checksum does not match")
    return texts[KEY], Checkpoint(tensors, json.loads(texts[CHECKPOINT_RECORD]))


RECORD, GENES, GENE_IDS = "record", "genes", "gene_ids"


class ModelDataset(StoredDataset["TrainedModel", "TrainedModel"]):
    """Load and save a trained model: weights, gene panel and the record of what it was trained on."""

    kind = "a model that this version wrote"

    def _write(self, data: TrainedModel, path: Path) -> None:
        texts = {
            **data.model.metadata(),
            RECORD: json.dumps(data.record),
            GENES: json.dumps(data.genes),
            GENE_IDS: json.dumps(data.gene_ids),
        }
        write_tensors(path, data.model.to_tensors(), texts)

    def _read(self, path: Path) -> TrainedModel:
        from spamcaf.peers.models import TrainedModel

        tensors, texts = read_tensors(path)
        names = (json.loads(texts[name]) for name in (GENES, GENE_IDS, RECORD))
        return TrainedModel.from_tensors(tensors, texts, *names)

"""The trained model and the checkpoints of its fit: arrays and texts in safetensors files.

The same content always gives the same bytes. safetensors itself does not notice a changed byte: each file carries a
SHA-256 of its content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.atomic import replacing
from spamcaf.datasets.stored import ReadOnlyDataset, StoredDataset, as_table
from spamcaf.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from kedro_datasets._typing import TablePreview
    from numpy.typing import NDArray

    from spamcaf.model.training import Checkpoint
    from spamcaf.peers.models import TrainedModel

logger = logging.getLogger(__name__)

TEXTS = "spamcaf"
"""The file's only metadata entry: safetensors writes several in an order that changes from process to process."""
KEY, RECORD, CHECKSUM = "key", "record", "checksum"


def checksum(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of arrays and texts with their names, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    digest.update(json.dumps(dict(texts), sort_keys=True).encode())
    return digest.hexdigest()


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> None:
    """Write arrays and texts to `path`, with their checksum."""
    from safetensors.numpy import save_file

    whole = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    summed = {**texts, CHECKSUM: checksum(whole, texts)}
    save_file(whole, path, metadata={TEXTS: json.dumps(summed, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return arrays and texts; ValueError when the file is damaged, has no checksum or is not ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            texts = (file.metadata() or {}).get(TEXTS)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if texts is None:
        raise ValueError("it was not written by spamcaf")
    named = json.loads(texts)
    if not isinstance(named, dict) or CHECKSUM not in named:
        raise ValueError("it has no checksum: an older version wrote it, or it is damaged")
    if named.pop(CHECKSUM) != checksum(arrays, named):
        raise ValueError("its checksum does not match: it is damaged")
    return arrays, named


class CheckpointFolder:
    """Checkpoints by name in a folder; each holds its key, and one of another key is not loaded but replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, name: str, key: str) -> Checkpoint | None:
        """Return what is stored under `name`; None where there is nothing, or it is damaged or of another key."""
        from spamcaf.model.training import Checkpoint

        path = self._path(name)
        if not path.exists():
            return None
        try:
            tensors, texts = read_tensors(path)
            record = json.loads(texts[RECORD])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("Checkpoint %s is damaged (%s): that part is trained again.", path, error)
            return None
        if texts[KEY] != key:
            logger.info("checkpoint %s is of other inputs or settings and is not used", path)
            return None
        return Checkpoint(tensors, record)

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        """Store under `name`; a kill meanwhile leaves the one before."""
        texts = {KEY: key, RECORD: json.dumps(checkpoint.record)}
        with replacing(self._path(name)) as temporary:
            write_tensors(temporary, checkpoint.tensors, texts)

    def clear(self) -> None:
        """Remove all of them, and what a killed save left behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"


class CheckpointsDataset(ReadOnlyDataset):
    """Load gives the store of checkpoints under `filepath`, empty or not; a node saves through it while it works."""

    instead = "Save through the store that load gives."

    def load(self) -> CheckpointFolder:
        return CheckpointFolder(self._filepath)


class ModelDataset(StoredDataset["TrainedModel", "TrainedModel"]):
    """Load and save a trained model: weights, gene panel and the record of what it was trained on."""

    kind = "a model that this version wrote"

    def _write(self, data: TrainedModel, path: Path) -> None:
        from spamcaf.peers.models import GENE_IDS, GENES

        names = {GENES: data.genes, GENE_IDS: data.gene_ids, RECORD: data.record}
        texts = {name: json.dumps(value) for name, value in names.items()}
        write_tensors(path, data.model.to_tensors(), data.model.metadata() | texts)

    def _read(self, path: Path) -> TrainedModel:
        from spamcaf.peers.models import GENE_IDS, GENES, TrainedModel

        tensors, texts = read_tensors(path)
        names = (json.loads(texts[name]) for name in (GENES, GENE_IDS, RECORD))
        return TrainedModel.from_tensors(tensors, texts, *names)

    def preview(self) -> TablePreview:
        """Show what the model was trained on and how."""
        stored = self.load()
        return as_table({"genes": f"{len(stored.genes)}, such as {', '.join(stored.genes[:5])}", **stored.record})


class AppliedModelDataset(ModelDataset):
    """The stored model of another section, which a run applies: an input, whatever settings made it."""

    is_result = False

    def origin(self) -> dict[str, Any]:
        """Return the hash of the file, if it is there."""
        from spamcaf.readers.files import content_hash

        return {"model": content_hash([self._filepath])} if self._exists() else {}

    def require(self) -> None:
        """Raise InputError where the model is not there."""
        if not self._exists():
            section, run = self._filepath.parts[-3:-1]
            others = self._filepath.parents[2].glob(f"*/{run}/{self._filepath.name}")
            raise InputError(
                f"no model of section '{section}' in run '{run}' ({self._filepath}).",
                "that of a measured section, which `kedro run` fits.",
                f"{did_you_mean(section, (path.parts[-3] for path in others))}"
                "Name another: --params model=<section>, and run=<name> where its run is not the default one.",
            )

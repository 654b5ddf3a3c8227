"""The feature store: blocks of one key in one folder, each written atomically and verified when read."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io import AbstractDataset, DatasetError

from spamcaf.datasets.atomic import replacing
from spamcaf.datasets.base import not_stored
from spamcaf.datasets.tensors import checksum, read_tensors, read_texts, write_tensors
from spamcaf.errors import InputError
from spamcaf.histology.features import FeatureKey, Features, join_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

CHECKSUM = "checksum"
BLOCKS = "block_*.safetensors"


class FeaturesDataset(AbstractDataset[Features, Features]):
    """Append blocks of features; load the whole.

    Under `filepath` lies one folder per key, in it a safetensors file per block with the checksum of its content.
    Saving a block of a new key begins a new folder; older keys are removed once the new one is complete.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def save(self, data: Features) -> None:
        folder = self._folder / data.key.short()
        _write_block(folder / f"block_{data.start:08d}.safetensors", data)
        if _n_stored(folder) == data.n_total:
            _remove_others(folder)

    def load(self) -> Features:
        """Return the whole; raise InputError when it is not complete."""
        # the newest first: a kill between the last block and the removal of older keys leaves two wholes
        for folder in sorted(self._folders(), key=_last_written, reverse=True):
            blocks = list(_blocks(folder))
            if _is_whole(blocks):
                return join_blocks(blocks)
        raise not_stored(self._folder)

    def _exists(self) -> bool:
        return any(_is_whole(list(_blocks(folder))) for folder in self._folders())

    def _folders(self) -> list[Path]:
        return sorted(f for f in self._folder.iterdir() if f.is_dir()) if self._folder.is_dir() else []

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._folder)}


class StoredBlocksDataset(FeaturesDataset):
    """What a feature store holds already: loads a list of sound blocks, complete or not; read-only.

    It is the same folder as the store's own entry, so that a run that was cut off, or is repeated, computes only what
    is missing.
    """

    def load(self) -> list[Features]:  # type: ignore[override]
        """Return the sound blocks of every key."""
        return [block for folder in self._folders() for block in _blocks(folder)]

    def save(self, data: Features) -> None:
        raise DatasetError("Save through the feature store's own entry.")

    def _exists(self) -> bool:
        return True


def _is_whole(blocks: list[Features]) -> bool:
    return bool(blocks) and sum(len(block.ids) for block in blocks) == blocks[0].n_total


def _n_stored(folder: Path) -> int:
    """Count the sites stored in `folder` by the records alone: a save must not read all blocks before it again."""
    try:
        return sum(len(json.loads(read_texts(path)["ids"])) for path in folder.glob(BLOCKS))
    except (OSError, ValueError, KeyError):
        return 0


def _last_written(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.glob(BLOCKS)), default=0)


def _remove_others(folder: Path) -> None:
    for other in folder.parent.iterdir():
        if other != folder and other.is_dir():
            shutil.rmtree(other)


def _write_block(path: Path, block: Features) -> None:
    arrays: dict[str, np.ndarray] = {"windows": block.windows, "n_px_padded": block.n_px_padded}
    if block.whole is not None:
        arrays["whole"] = block.whole
    record = {
        "key": block.key.text(),
        "ids": json.dumps(block.ids),
        "start": str(block.start),
        "n_total": str(block.n_total),
        CHECKSUM: checksum(arrays),
    }
    with replacing(path) as temporary:
        write_tensors(temporary, arrays, record)


def _blocks(folder: Path) -> Iterator[Features]:
    for path in sorted(folder.glob(BLOCKS)):
        try:
            block = _read_block(path)
        except InputError as error:
            logger.warning("%s It will be computed again.", error)
            continue
        if block.key.short() == folder.name:
            yield block


def _read_block(path: Path) -> Features:
    try:
        arrays, record = read_tensors(path)
        if checksum(arrays) != record[CHECKSUM]:
            raise ValueError("its checksum does not match")
        key = FeatureKey(**json.loads(record["key"]))
        ids, start, n_total = tuple(json.loads(record["ids"])), int(record["start"]), int(record["n_total"])
        return Features(ids, arrays["windows"], arrays["n_px_padded"], key, n_total, start, arrays.get("whole"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}).", "a whole block of features.", "None.") from error

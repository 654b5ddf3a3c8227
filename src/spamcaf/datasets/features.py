"""The feature store: blocks of one key in one folder, each written atomically and verified when read."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from kedro.io import AbstractDataset, DatasetError
from numpy.typing import NDArray

from spamcaf.datasets.base import not_stored
from spamcaf.datasets.blocks import (
    PATTERN,
    UNFINISHED,
    WHOLE,
    WINDOWS,
    BlockFile,
    StoredRows,
    block_path,
    is_whole,
    verified,
    write_block,
)
from spamcaf.errors import InputError
from spamcaf.histology.features import FeatureKey, Features, StoredBlock


class FeaturesDataset(AbstractDataset[Features, Features]):
    """Append blocks of features; load the whole, whose rows stay in their files until they are asked for.

    Under `filepath` lies one folder per key, in it a safetensors file per block with the checksum of its content. Every
    block is verified when the whole is loaded. Saving a block of a new key begins a new folder; older keys are removed
    once the new one is complete, so that a run that fails half-way leaves what there was: the old settings get it back.
    Until then nothing is loaded, since what follows would take the old features for those asked for last. A block
    without sites says only which key is in use.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self._stored: dict[Path, set[Path]] = {}
        self.metadata = metadata

    def save(self, data: Features) -> None:
        folder = self._folder / data.key.short()
        if folder not in self._stored:  # once: a save must not take the longer, the more blocks there are
            self._stored[folder] = set(folder.glob(PATTERN))
        if data.ids or not data.n_total:
            path = block_path(folder, data.start)
            write_block(path, data)
            self._stored[folder].add(path)
        if len(self._stored[folder]) >= max(-(-data.n_total // data.key.block), 1):
            self._tidy(folder)

    def load(self) -> Features:
        """Return the whole; raise InputError when it is not complete."""
        newest = self._newest()
        if newest is None:
            raise not_stored(self._folder)
        blocks = list(verified(newest))
        if not is_whole(blocks):
            raise _incomplete(newest, blocks)
        return _joined(blocks)

    def _newest(self) -> Path | None:
        # a kill between the last block and the removal of older keys leaves two wholes
        return max((folder for folder in self._folders() if any(folder.glob(PATTERN))), key=_last_written, default=None)

    def _exists(self) -> bool:
        newest = self._newest()
        return newest is not None and is_whole(list(verified(newest)))

    def _folders(self) -> list[Path]:
        return sorted(f for f in self._folder.iterdir() if f.is_dir()) if self._folder.is_dir() else []

    def _tidy(self, folder: Path) -> None:
        """Remove older keys and what killed processes left, once every block is there; a damaged one does not count."""
        others = [other for other in self._folders() if other != folder]
        if others and not is_whole(list(verified(folder))):
            return
        for other in others:
            shutil.rmtree(other)
        for left_over in folder.glob(UNFINISHED):
            left_over.unlink()
        self._stored = {folder: self._stored[folder]}

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._folder)}


class StoredBlocksDataset(FeaturesDataset):
    """Which blocks a feature store holds already: those found sound, of every key, complete or not; read-only.

    It is the same folder as the store's own entry, so that a run that was cut off, or is repeated, computes only what
    is missing.
    """

    def load(self) -> list[StoredBlock]:  # type: ignore[override]
        """Return the sound blocks; each is read and verified, none is kept in memory."""
        return [StoredBlock(block.key, block.start) for folder in self._folders() for block in verified(folder)]

    def save(self, data: Features) -> None:
        raise DatasetError("Save through the feature store's own entry.")

    def _exists(self) -> bool:
        return True


def _incomplete(folder: Path, blocks: list[BlockFile]) -> InputError:
    n_stored = sum(len(block.ids) for block in blocks)
    total = f" of {blocks[0].n_total}" if blocks else ""
    return InputError(
        f"features of {n_stored}{total} sites in {folder}.",
        "those of all sites.",
        "Run the pipeline feature_extraction again with the settings that you want; it goes on where it stopped.",
    )


def _joined(blocks: list[BlockFile]) -> Features:
    key: FeatureKey = blocks[0].key
    ids = tuple(name for block in blocks for name in block.ids)
    n_padded = np.concatenate([block.n_px_padded for block in blocks])
    whole = _rows(blocks, WHOLE) if all(block.has_whole for block in blocks) else None
    return Features(ids, _rows(blocks, WINDOWS), n_padded, key, len(ids), whole=whole)


def _rows(blocks: list[BlockFile], name: str) -> NDArray[np.float32]:
    # as good as an array wherever rows are taken by an index, which is all that is done with features
    return cast("NDArray[np.float32]", StoredRows(blocks, name))


def _last_written(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.glob(PATTERN)), default=0)

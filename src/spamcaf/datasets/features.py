"""The feature store: blocks of one key in one folder, each written atomically and verified when read."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
from kedro.io import AbstractDataset, DatasetError
from numpy.typing import NDArray

from spamcaf.atomic import replacing
from spamcaf.datasets.stored import not_stored
from spamcaf.datasets.tensors import checksum, read_rows, read_tensors, write_tensors
from spamcaf.errors import InputError
from spamcaf.histology.features import FeatureKey, Features, StoredBlock

logger = logging.getLogger(__name__)

CHECKSUM = "checksum"
WINDOWS, N_PADDED, WHOLE = "windows", "n_px_padded", "whole"
PATTERN = "block_*.safetensors"
UNFINISHED = ".block_*.tmp.safetensors"
"""What a process that was killed while writing leaves behind."""


@dataclass(frozen=True)
class BlockFile:
    """A verified block: where it is and what it holds, but for the features themselves."""

    path: Path
    key: FeatureKey
    start: int
    n_total: int
    ids: tuple[str, ...]
    n_px_padded: NDArray[np.int64]
    shape: tuple[int, ...]
    has_whole: bool


def block_path(folder: Path, start: int) -> Path:
    """Return the file of the block at `start`."""
    return folder / f"block_{start:08d}.safetensors"


def write_block(path: Path, block: Features) -> None:
    """Write a block with the checksum of its arrays and of what is said of them."""
    arrays: dict[str, NDArray[Any]] = {WINDOWS: block.windows, N_PADDED: block.n_px_padded}
    if block.whole is not None:
        arrays[WHOLE] = block.whole
    record = {
        "key": block.key.text(),
        "ids": json.dumps(block.ids),
        "start": str(block.start),
        "n_total": str(block.n_total),
    }
    with replacing(path) as temporary:
        write_tensors(temporary, arrays, record | {CHECKSUM: _checksum(arrays, record)})


def verified(folder: Path) -> Iterator[BlockFile]:
    """Yield the sound blocks in a folder by their start, one in memory at a time; damaged ones are named in the log."""
    for path in sorted(folder.glob(PATTERN)):
        try:
            block = _verify(path)
        except InputError as error:
            logger.warning("%s feature_extraction computes it again.", error)
            continue
        if block.key.short() == folder.name and block_path(folder, block.start) == path:
            yield block


def is_whole(blocks: list[BlockFile]) -> bool:
    """Tell whether blocks of one key hold every site, each once."""
    return bool(blocks) and len({name for block in blocks for name in block.ids}) == blocks[0].n_total


def _verify(path: Path) -> BlockFile:
    try:
        arrays, record = read_tensors(path)
        if _checksum(arrays, record) != record[CHECKSUM]:
            raise ValueError("its checksum does not match")
        key = FeatureKey(**json.loads(record["key"]))
        ids, start, n_total = tuple(json.loads(record["ids"])), int(record["start"]), int(record["n_total"])
        return BlockFile(
            path, key, start, n_total, ids, arrays[N_PADDED].copy(), arrays[WINDOWS].shape, WHOLE in arrays
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}).", "a whole block of features.", "None.") from error


def _checksum(arrays: dict[str, NDArray[Any]], record: dict[str, str]) -> str:
    said = {name: text for name, text in record.items() if name != CHECKSUM}
    return checksum(arrays, json.dumps(said, sort_keys=True))


class StoredRows:
    """One array of all blocks, as numpy has it, whose rows lie in files.

    `rows[index]` takes any index of the first axis and reads what it asks for; np.asarray reads everything.
    """

    def __init__(self, blocks: list[BlockFile], name: str) -> None:
        self._paths, self._name = [block.path for block in blocks], name
        self._ends = np.cumsum([len(block.ids) for block in blocks])
        row = blocks[0].shape[1:] if name == WINDOWS else blocks[0].shape[2:]
        self.shape = (int(self._ends[-1]), *row)
        self.dtype = np.dtype(np.float32)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[np.float32]:  # noqa: ANN401  whatever numpy takes
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        rows = np.arange(len(self))[first]
        read = self._read(np.atleast_1d(rows).ravel()).reshape(*np.shape(rows), *self.shape[1:])
        return read[(slice(None),) * np.ndim(rows) + rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401
        if copy is False:
            raise ValueError("rows that lie in files cannot be had without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def _read(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        block = np.searchsorted(self._ends, rows, side="right")
        for i in np.unique(block):
            here = block == i
            within = rows[here] - (self._ends[i - 1] if i else 0)
            low, high = int(within.min()), int(within.max()) + 1
            out[here] = read_rows(self._paths[i], self._name, low, high)[within - low]
        return out


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

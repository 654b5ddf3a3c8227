"""Blocks of features as files: written atomically, verified by checksum, read row by row."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.atomic import replacing
from spamcaf.datasets.tensors import checksum, read_rows, read_tensors, write_tensors
from spamcaf.errors import InputError
from spamcaf.histology.features import FeatureKey, Features

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

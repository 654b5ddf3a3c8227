"""The feature store: a Zarr group per key, in which a chunk is a block of sites and carries its own checksum.

`<filepath>/<key>.zarr` holds `windows` (site, 9, feature), `n_px_padded` (site,), `ids` (site,), for the released
network `whole` (site, feature), and for fine-tuning `maps` (site, view, ...), with sites in the order they were read.
Places of a slide's map stand there as sites, `windows` (place, 1, feature) in half precision.
Zarr writes a chunk beside its place and renames it: a killed process leaves whole chunks and `*.partial` files. It does
not sync them to the disk, so what a power cut leaves of a chunk is noticed by its CRC32C.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from kedro.io import DatasetError

from spamcaf.atomic import replacing
from spamcaf.datasets.stored import PathDataset, as_table, not_stored
from spamcaf.errors import InputError
from spamcaf.histology.features import FeatureKey, Features, StoredBlock

if TYPE_CHECKING:
    from kedro_datasets._typing import TablePreview
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

WINDOWS, WHOLE, MAPS, N_PADDED, IDS = "windows", "whole", "maps", "n_px_padded", "ids"
VERSION_0_1 = "*/block_*.safetensors"  # files of the feature stores that version 0.1 wrote


@dataclass(frozen=True)
class _Group:
    """An opened group. The chunk of `ids` is written last: where it is, a block was written to its end."""

    folder: Path
    key: FeatureKey
    arrays: dict[str, Any]

    @property
    def n_total(self) -> int:
        return int(self.arrays[IDS].shape[0])

    def chunk(self, name: str, number: int) -> NDArray[Any]:
        """Return a chunk of an array; raise InputError where it is missing or damaged."""
        array, size = self.arrays[name], self.key.block
        path = self.folder / name / array.metadata.encode_chunk_key((number, *[0] * (array.ndim - 1)))
        try:
            if not path.is_file():  # Zarr would return its fill value
                raise FileNotFoundError("it is missing")
            return cast("NDArray[Any]", array[number * size : (number + 1) * size])
        except (OSError, ValueError) as error:
            found = f"{path} is damaged ({error})."
            raise InputError(found, "a whole block of features.", "Run feature_extraction again.") from error

    def sound_blocks(self) -> Iterator[tuple[int, list[str], NDArray[np.int64]]]:
        """Yield start, ids and padded pixels of the sound blocks, one in memory at a time; log the damaged ones."""
        for number in sorted(_written(self.folder)):
            try:
                chunks = {name: self.chunk(name, number) for name in self.arrays}
            except InputError as error:
                logger.warning("%s", error)
            else:
                yield number * self.key.block, chunks[IDS].tolist(), chunks[N_PADDED]

    def is_whole(self) -> bool:
        """Tell whether every site is there, sound, and once."""
        return len({name for _, ids, _ in self.sound_blocks() for name in ids}) == self.n_total

    def last_written(self) -> int:
        """Return when a block was written last, nanoseconds."""
        return max(path.stat().st_mtime_ns for path in (self.folder / IDS).iterdir())


class StoredRows:
    """One array of a group, as numpy has it, whose rows stay on disk until an index asks for them.

    `rows[index]` takes any index of numpy and reads the blocks that it touches; np.asarray reads everything.
    """

    def __init__(self, group: _Group, name: str) -> None:
        self._group, self._name = group, name
        self.shape: tuple[int, ...] = group.arrays[name].shape
        self.ndim, self.dtype = len(self.shape), np.dtype(group.arrays[name].dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:  # noqa: ANN401  whatever numpy takes
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        rows = np.arange(len(self))[first]
        out = np.empty((*np.shape(rows), *self.shape[1:]), self.dtype)
        number, within = np.divmod(rows, self._group.key.block)
        for i in np.unique(number):
            here = number == i
            out[here] = self._group.chunk(self._name, int(i))[within[here]]
        return out[(slice(None),) * np.ndim(rows) + rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401
        if copy is False:
            raise ValueError("rows that lie in files cannot be had without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


class FeaturesDataset(PathDataset[Features, Features]):
    """Append blocks of features; load the whole, whose rows stay on disk until they are indexed.

    Every block is verified when the whole is loaded. Saving a block of a new key begins a new group; older keys are
    removed once the new one is complete, so that a run that fails half-way leaves what there was: the old settings get
    it back. Until then nothing is loaded, since what follows would take the old features for the new ones. A
    block without sites only marks which key is in use.
    """

    def save(self, data: Features) -> None:
        folder = self._filepath / f"{data.key.short()}.zarr"
        if data.ids or not data.n_total:
            group = _open(folder) or _create(folder, data)
            for name, values in _arrays(data).items():
                group.arrays[name][data.start : data.start + len(data.ids)] = values
        if len(_written(folder)) >= -(-data.n_total // data.key.block):
            self._tidy(folder)

    def load(self) -> Features:
        groups = self._groups()
        if not groups and self._is_of_version_0_1():
            raise InputError(
                f"features that version 0.1 stored in {self._filepath}.",
                "those of this version.",
                "Run the pipeline feature_extraction again for this section: it computes them anew.",
            )
        if not groups:
            raise not_stored(self._filepath)
        group = groups[-1]
        blocks = list(group.sound_blocks())
        ids = tuple(name for _, names, _ in blocks for name in names)
        if len(set(ids)) != group.n_total:
            raise InputError(
                f"features of {len(ids)} of {group.n_total} sites in {group.folder}.",
                "those of all sites.",
                "Run the pipeline feature_extraction again with the settings you want; it goes on where it stopped.",
            )
        n_padded = np.concatenate([np.empty(0, np.int64), *(padded for _, _, padded in blocks)])
        # as good as arrays wherever rows are taken by an index, which is all that is done with features
        rows = {name: cast("NDArray[Any]", StoredRows(group, name)) for name in group.arrays if name != IDS}
        whole, maps = rows.get(WHOLE), rows.get(MAPS)
        return Features(ids, rows[WINDOWS], n_padded, group.key, group.n_total, whole=whole, maps=maps)

    def preview(self) -> TablePreview:
        """Show what was computed, and how."""
        found = self.load()
        facts = {"places": found.n_total, "tiles per site": found.windows.shape[1], "features": found.windows.shape[2]}
        return as_table({**facts, "stored as": found.windows.dtype, **asdict(found.key)})

    def _folders(self) -> list[Path]:
        return [folder for folder in self._filepath.iterdir() if folder.is_dir()] if self._filepath.is_dir() else []

    def _groups(self) -> list[_Group]:
        """Return the groups, that written last at the end: a kill before older keys are removed leaves several."""
        opened = [_open(folder) for folder in self._folders() if folder.name[0] != "." and folder.suffix == ".zarr"]
        return sorted(filter(None, opened), key=_Group.last_written)

    def _exists(self) -> bool:
        groups = self._groups()
        return bool(groups) and groups[-1].is_whole()

    def _tidy(self, folder: Path) -> None:
        """Remove older keys and what killed processes left, once every block is there; a damaged one does not count."""
        others = [other for other in self._folders() if other != folder]
        group = _open(folder)
        if group is None or (others and not group.is_whole()):
            return
        for other in others:
            shutil.rmtree(other)
        for left_over in folder.rglob("*.partial"):
            left_over.unlink()

    def _is_of_version_0_1(self) -> bool:
        return any(self._filepath.glob(VERSION_0_1))


class StoredBlocksDataset(FeaturesDataset):
    """Which blocks a feature store holds already: those found sound, of every key, complete or not; read-only.

    It is the same folder as the store's own entry, so that a run that was cut off, or is repeated, computes only what
    is missing.
    """

    is_result = False

    def load(self) -> list[StoredBlock]:  # type: ignore[override]
        if self._is_of_version_0_1():
            logger.warning("%s holds features of version 0.1: they are computed again and replaced.", self._filepath)
        return [StoredBlock(group.key, start) for group in self._groups() for start, _, _ in group.sound_blocks()]

    def preview(self) -> TablePreview:
        """Show how much is stored."""
        return as_table({"blocks stored": len(self.load())})

    def save(self, data: Features) -> None:
        raise DatasetError("Save through the feature store's own entry.")

    def _exists(self) -> bool:
        return True


def _arrays(block: Features) -> dict[str, NDArray[Any]]:
    more = {name: values for name, values in ((WHOLE, block.whole), (MAPS, block.maps)) if values is not None}
    return {WINDOWS: block.windows, **more, N_PADDED: block.n_px_padded, IDS: np.array(block.ids, object)}


def _create(folder: Path, block: Features) -> _Group:
    """Make an empty group for the whole that `block` belongs to."""
    import zarr
    from zarr.codecs import Crc32cCodec

    with replacing(folder) as temporary:
        group = zarr.create_group(temporary, attributes={"key": asdict(block.key)})
        for name, values in _arrays(block).items():
            group.create_array(
                name,
                shape=(block.n_total, *values.shape[1:]),
                chunks=(block.key.block, *values.shape[1:]),
                dtype=str if name == IDS else values.dtype,
                compressors=Crc32cCodec(),
                chunk_key_encoding={"name": "default", "separator": "."},
            )
    return cast("_Group", _open(folder))


def _open(folder: Path) -> _Group | None:
    """Return the group in `folder`; None where there is none, or its description is damaged."""
    import zarr

    if not folder.is_dir():
        return None
    try:
        group: Any = zarr.open_group(folder, mode="r+")
        key = FeatureKey(**group.attrs["key"])
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        # without this setting Zarr leaves out a block of zeros
        arrays = {name: group[name].with_config({"write_empty_chunks": True}) for name in names}
        n_total = arrays[IDS].shape[0]
        expected = [(key.block, n_total, *array.chunks[1:]) for array in arrays.values()]
        is_sound = [(array.chunks[0], *array.shape) for array in arrays.values()] == expected
        if not (is_sound and {WINDOWS, N_PADDED} <= arrays.keys() and key.short() == folder.stem):
            raise ValueError("its parts contradict each other")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is damaged (%s): feature_extraction computes it again.", folder, error)
        return None
    return _Group(folder, key, arrays)


def _written(folder: Path) -> set[int]:
    names = [path.name.removeprefix("c.") for path in (folder / IDS).glob("c.*")]
    return {int(name) for name in names if name.isdecimal()}

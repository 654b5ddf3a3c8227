"""What an HDF5 file may hold, checked before its content is read: nothing of other files, nothing without end."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from spamcaf.limits import require_memory, require_plausible, require_regular

MAX_DEPTH, MAX_OBJECTS = 64, 1_000_000


def refuse_hostile_hdf5(path: Path) -> None:
    """Raise ValueError for an HDF5 file whose content lies elsewhere, is without end, or is larger than the file holds.

    To be called before anything in it is read. Refused are links other than hard ones, external storage and virtual
    datasets, which lead to other files; a group of two names, by which few groups become endlessly many; groups nested
    deeper than `MAX_DEPTH`, more than `MAX_OBJECTS` of them; and datasets that declare more than their chunks can hold.
    Raises InputError where `path` is no plain file.
    """
    require_regular(path)
    with h5py.File(path) as file:
        groups = [(file["/"], "", 0)]
        seen = {_address(file["/"])}
        n_objects = 0
        while groups:
            group, place, depth = groups.pop()
            for name in group:
                where = f"{place}/{name}".lstrip("/")
                n_objects += 1
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"'{where}' is a link, which may lead to another file")
                item = group[name]
                if isinstance(item, h5py.Dataset):
                    _refuse_hostile_dataset(item, where)
                elif isinstance(item, h5py.Group):
                    address = _address(item)
                    if address in seen:
                        raise ValueError(f"'{where}' is a second name of another group")
                    seen.add(address)
                    groups.append((item, where, depth + 1))
            if depth >= MAX_DEPTH or n_objects > MAX_OBJECTS:
                raise ValueError(f"'{place[:MAX_DEPTH]}' is one of {n_objects} parts or nested {depth} levels deep")


def _address(group: h5py.Group) -> int:
    return int(h5py.h5o.get_info(group.id).addr)


def _refuse_hostile_dataset(dataset: h5py.Dataset, where: str) -> None:
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"'{where}' takes its content from another file")
    if dataset.shape is not None:
        chunk_bytes = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        require_plausible(max(size_of(dataset), chunk_bytes), dataset.id.get_storage_size(), f"'{where}'")


def size_of(item: h5py.Dataset | h5py.Group) -> int:
    """Return the bytes that a dataset, or all in a group, take in memory by what they declare."""
    if isinstance(item, h5py.Group):
        return sum(size_of(part) for part in item.values())
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return 0
    return math.prod(map(int, item.shape)) * item.dtype.itemsize


def require_memory_for(path: Path, *items: h5py.Dataset | h5py.Group) -> None:
    """Raise InputError where datasets and groups of the file at `path` do not fit into memory."""
    require_memory(sum(map(size_of, items)), path)

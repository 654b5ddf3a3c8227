"""HDF5 files that keep to themselves: their format can make a reader open other files of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py


def refuse_foreign_content(path: Path) -> None:
    """Raise ValueError when the file at `path` takes content from other files: external links, storage or sources."""
    import h5py

    with h5py.File(path) as file:
        _check_group(file)


def _check_group(group: h5py.Group) -> None:
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"'{group.name}/{name}' is a link, which may lead to another file")
        item = group[name]
        if isinstance(item, h5py.Group):
            _check_group(item)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise ValueError(f"'{item.name}' takes its content from another file")

"""A SpatialData store on disk: what tells it from other Zarr folders, and reading it safely."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.layouts.table import readable

if TYPE_CHECKING:
    from spatialdata import SpatialData

ROOT_FILES = ("zarr.json", ".zattrs")
DESCRIPTIONS = {"zarr.json", ".zarray", ".zmetadata"}
ATTRIBUTES = "spatialdata_attrs"
"""Of the store, and of a table: what it annotates."""
ELEMENTS = {"images", "labels", "points", "shapes", "tables", "table"}
CODE = '"pickle"'
SPARSE = ("data", "indices", "indptr")
MATRICES = ("X", "layers/counts", "raw/X")


def is_store(folder: Path) -> bool:
    """Tell whether `folder` is a SpatialData store, by its attributes or, of older versions, by its groups."""
    if not folder.is_dir():
        return False
    if any(ATTRIBUTES in _attributes(folder / name) for name in ROOT_FILES):
        return True
    groups = {p.name for p in folder.iterdir() if p.is_dir()}
    return (folder / ".zgroup").is_file() and "shapes" in groups and groups <= ELEMENTS


def read_store(folder: Path) -> SpatialData:
    """Return the content of the store: tables and shapes in memory, images on disk; raise InputError if damaged."""
    import spatialdata

    with readable(folder, "a whole SpatialData store"):
        _refuse_code(folder)
        _require_counts(folder)
        return spatialdata.read_zarr(folder, selection=("images", "shapes", "tables"))  # type: ignore[arg-type]


def _attributes(path: Path) -> dict[str, Any]:
    record = _record(path)
    attributes = record.get("attributes", record)
    return attributes if isinstance(attributes, dict) else {}


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _refuse_code(folder: Path) -> None:
    """Raise ValueError for arrays of pickled objects, which run code when they are read; chunks are not looked at."""
    for place, folders, files in os.walk(folder):
        for name in DESCRIPTIONS & set(files):
            path = Path(place, name)
            if CODE in path.read_text(encoding="utf-8"):
                raise ValueError(f"{place} holds pickled objects, which may run code")
            if name == ".zarray" or _record(path).get("node_type") == "array":
                folders.clear()


def missing_chunks(array: Any) -> tuple[int, int]:  # noqa: ANN401  a zarr array
    """Return how many chunks of an array are not there, and how many there should be: they are read as zeros."""
    return int(array.nchunks - array.nchunks_initialized), int(array.nchunks)


def _require_counts(folder: Path) -> None:
    """Raise ValueError where a part of a sparse matrix is missing: it would be read as zeros without a word."""
    import zarr

    for table in (*folder.glob("tables/*"), folder / "table" / "table"):
        for place in (table / matrix / part for matrix in MATRICES for part in SPARSE):
            if not any((place / name).is_file() for name in DESCRIPTIONS):
                continue
            n_missing, n = missing_chunks(zarr.open_array(place, mode="r"))
            if n_missing:
                raise ValueError(f"{n_missing} of {n} chunks of {place.relative_to(folder)} are missing")

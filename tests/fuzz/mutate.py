"""Which changes an input of each kind gets, and how many."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.fuzz.mutations import (
    Mutation,
    change_cell,
    change_hdf5,
    change_json,
    change_kind,
    change_parquet,
    change_stores,
    change_table,
    change_tiff,
    cut,
    files_of,
    flip_bytes,
    set_integer,
    splice,
    swap_files,
)
from tests.fuzz.mutations_of_tensors import cast_tensor, change_tensors, change_texts

BYTES: tuple[Mutation, ...] = (flip_bytes, set_integer, cut, splice, swap_files, change_kind)
BY_KIND: dict[str, tuple[Mutation, ...]] = {
    "visium": (*BYTES, change_hdf5, change_hdf5, change_table, change_cell, change_json),
    "mtx": (*BYTES, change_table, change_table, change_cell, change_cell, change_json),
    "visium_hd": (*BYTES, change_parquet, change_parquet, change_hdf5, change_json),
    "h5ad": (*BYTES, *[change_hdf5] * 8),
    "spatialdata": (*BYTES, *[change_json] * 5, change_parquet, change_stores),
    "legacy": (*BYTES, change_table, change_table, change_cell),
    "labels": (*BYTES, change_table, change_table, change_cell),
    "reference": (*BYTES, change_hdf5, change_hdf5, change_table, change_cell),
    "slide": (*BYTES, flip_bytes, set_integer, set_integer, set_integer, *[change_tiff] * 5),
    "scanner": (*BYTES, set_integer, *[change_tiff] * 8),
    "weights": (*BYTES, *[change_tensors] * 5, *[cast_tensor] * 3, change_json),
    "model": (*BYTES, *[change_tensors] * 3, *[cast_tensor] * 3, *[change_texts] * 6),
    "cohort": (*BYTES, *[change_table] * 4, *[change_cell] * 5),
    "settings": (flip_bytes, cut, splice, change_kind, change_table, *[change_cell] * 5),
}


ONE_AT_A_TIME = {"reference", "slide", "scanner", "weights", "model"}
"""Kinds whose files or folders are inputs of their own."""


def keep_one(folder: Path, name: str) -> None:
    """Remove everything from `folder` but what is called `name`."""
    for path in list(folder.iterdir()):
        if path.name != name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def mutate(kind: str, rng: random.Random, folder: Path) -> str:
    """Change the input in `folder` once or twice; return what was done."""
    if kind in ONE_AT_A_TIME:
        keep_one(folder, rng.choice(sorted(path.name for path in folder.iterdir())))
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        if files_of(folder):
            mutation = rng.choice(BY_KIND[kind])
            try:
                done.append(f"{mutation.__name__}({mutation(rng, folder)})")
            except Exception as error:  # a second change of what the first one broke
                done.append(f"{mutation.__name__} failed ({type(error).__name__})")
    return ", ".join(done)

"""Arrays with texts in one safetensors file, the same content always as the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXTS = "spamcaf"
"""The file's only metadata entry: safetensors writes several in an order that changes from process to process."""


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> None:
    """Write arrays and texts to `path`."""
    from safetensors.numpy import save_file

    whole = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    save_file(whole, path, metadata={TEXTS: json.dumps(dict(texts), sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return arrays and texts; ValueError when the file is damaged or not ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            return arrays, _texts(file.metadata())
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def checksum(arrays: Mapping[str, NDArray[Any]], *texts: str) -> str:
    """Return the SHA-256 of the arrays' content and of `texts`: safetensors itself does not notice a changed byte."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()


def read_rows(path: Path, name: str, start: int, stop: int) -> NDArray[Any]:
    """Return rows `start` to `stop` of one array, without reading the others; ValueError as `read_tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            rows: NDArray[Any] = file.get_slice(name)[start:stop]
            return rows
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _texts(metadata: dict[str, str] | None) -> dict[str, str]:
    if not metadata or TEXTS not in metadata:
        raise ValueError("it was not written by spamcaf")
    texts: dict[str, str] = json.loads(metadata[TEXTS])
    return texts

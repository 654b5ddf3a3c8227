"""What a Zarr store may hold, checked by its descriptions before the zarr library opens it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spamcaf.limits import GIB, read_json, require_memory, require_plausible

DESCRIPTIONS = {"zarr.json", ".zarray", ".zmetadata"}
NUMBERS = ("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle", "transpose", "zfpy")
TEXTS = ("bytes", "categorize", "json2", "msgpack2", "vlen-array", "vlen-bytes", "vlen-utf8")
PACKING = ("blosc", "bz2", "gzip", "lz4", "lzma", "sharding_indexed", "zlib", "zstd")
SUMS = ("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3")
CODECS = frozenset((*NUMBERS, *TEXTS, *PACKING, *SUMS))
"""Codecs that turn bytes into numbers or text and nothing else. Others (pickle) run code when a chunk is read."""
MAX_CHUNKS = 4_000_000  # of one array: a slide of 100 000 x 100 000 px in tiles of 256 px has 153 000
MAX_CHUNK_BYTES = 4 * GIB
POINTER_BYTES = 16  # of an item of text


def refuse_hostile_zarr(folder: Path, in_memory: tuple[str, ...]) -> None:
    """Raise ValueError for a store that may run code, leads out of its folder, or declares more than it holds.

    To be called before anything in it is read. Descriptions of arrays are parsed: their codecs must be among `CODECS`.
    Refused are pipes, devices and links out of the store. Arrays in the parts `in_memory` must fit into memory; those
    elsewhere, which are read lazily, are bounded in the number and size of their chunks.
    """
    root, declared = folder.resolve(), 0
    for place, folders, names in os.walk(folder):
        _refuse_special(root, place, [*folders, *names])
        for name in DESCRIPTIONS & set(names):
            path = Path(place, name)
            for record in _arrays(read_json(path), path):
                _refuse_codecs(record, place)
                n_bytes = _require_chunks(record, place)
                if path.relative_to(folder).parts[0] in in_memory:
                    declared += n_bytes
                    require_plausible(n_bytes, _stored_bytes(path.parent), place)
    require_memory(declared, folder)


def _refuse_special(root: Path, place: str, names: list[str]) -> None:
    for name in names:
        path = os.path.join(place, name)
        if os.path.islink(path) and not Path(path).resolve().is_relative_to(root):
            raise ValueError(f"{path} is a link out of the store: copy the store with the content (cp -rL)")
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise ValueError(f"{path} is neither a file nor a folder")


def _arrays(record: Any, path: Path) -> Iterator[dict[str, Any]]:  # noqa: ANN401  whatever JSON holds
    """Yield the descriptions of arrays in one of a node, also those that it repeats of nodes below it."""
    if not isinstance(record, dict):
        raise ValueError(f"{path} describes no array and no group")
    nested = record.get("consolidated_metadata") or {}
    parts = nested.get("metadata") if isinstance(nested, dict) else None
    if path.name == ".zmetadata":
        parts = record.get("metadata")
    if isinstance(parts, Mapping):
        for part in parts.values():
            if isinstance(part, dict):
                yield from _arrays(part, path.with_name("zarr.json"))
    if path.name == ".zarray" or "shape" in record or record.get("node_type") == "array":
        yield record


def _refuse_codecs(record: Mapping[str, Any], place: str) -> None:
    """Raise ValueError for a codec or filter, at any depth, that is not among `CODECS`, and for transformers."""
    if record.get("storage_transformers"):
        raise ValueError(f"{place} is stored by a transformer, which is not read")
    codecs = [record.get("compressor"), *(record.get("filters") or []), *(record.get("codecs") or [])]
    for codec in filter(None, codecs):
        name = codec.get("name", codec.get("id")) if isinstance(codec, dict) else codec
        if not isinstance(name, str) or name.removeprefix("numcodecs.") not in CODECS:
            raise ValueError(f"{place} is packed by '{str(name)[:40]}', which may run code or is not known")
        inner = codec.get("configuration") if isinstance(codec, dict) else None
        if isinstance(inner, dict):
            _refuse_codecs({"codecs": [*(inner.get("codecs") or []), *(inner.get("index_codecs") or [])]}, place)


def _require_chunks(record: Mapping[str, Any], place: str) -> int:
    """Return the bytes that an array declares; raise ValueError where its chunks are too large or too many."""
    shape = _sizes(record.get("shape"))
    grid = record.get("chunk_grid")
    inner = grid.get("configuration") if isinstance(grid, dict) else None
    stated = inner.get("chunk_shape") if isinstance(inner, dict) else record.get("chunks", shape)
    chunk = _sizes(stated)
    n_chunks = math.prod(-(-n // max(size, 1)) for n, size in zip(shape, chunk, strict=True))
    item = _item_bytes(record.get("data_type", record.get("dtype")))
    if n_chunks > MAX_CHUNKS or math.prod(chunk) * item > MAX_CHUNK_BYTES:
        raise ValueError(f"{place} declares {n_chunks} chunks of {math.prod(chunk) * item} bytes")
    return math.prod(shape) * item


def _sizes(stated: Any) -> list[int]:  # noqa: ANN401  whatever JSON holds
    if not isinstance(stated, list) or not all(isinstance(n, int) and n >= 0 for n in stated):
        raise ValueError(f"a shape of {str(stated)[:40]}")
    return stated


def _item_bytes(dtype: object) -> int:
    """Return the bytes of an item by the name of its type, in version 2 (<f8) or 3 (float64) of the format."""
    found = re.fullmatch(r"([a-z]+|[<>|=][a-zA-Z])(\d+)", dtype) if isinstance(dtype, str) else None
    if found is None:
        return 1 if dtype == "bool" else POINTER_BYTES
    size = int(found[2])
    return max(size // 8, 1) if found[1].isalpha() else size * (4 if found[1].endswith("U") else 1)


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

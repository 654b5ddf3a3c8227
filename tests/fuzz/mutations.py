"""Changes to a valid input that keep most of its structure.

They are of bytes, tables, JSON, HDF5, parquet, TIFF and kinds of file; those of weights are in `mutations_of_tensors`.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutation = Callable[[random.Random, Path], str]
NUMBERS = [
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "9" * 40,
    str(2**31),
    str(2**63),
    "1.5",
    "",
    "NA",
    "true",
    "\u0661",
    "0x10",
]
TEXTS = [
    "",
    " ",
    "a" * 300,
    "../../x",
    "%41",
    "...",
    "*",
    "\x00",
    "\ufffd\u202e",
    "=1+1",
    "'",
    '"',
    "\t",
    ",",
    "null",
    "~",
]
VALUES: list[Any] = [None, True, -1, 0, 1.5, 2**63, 10**30, float("nan"), "", "x", [], {}, [[]], {"a": {}}, "9" * 30]


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder, links left out."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def pick(rng: random.Random, folder: Path, *endings: str) -> Path | None:
    """Return one of the files of a folder whose names end so, or None."""
    found = [p for p in files_of(folder) if not endings or p.name.endswith(endings)]
    return rng.choice(found) if found else None


def _content(path: Path) -> tuple[bytes, bool]:
    content = path.read_bytes()
    is_packed = content.startswith(b"\x1f\x8b")
    return (gzip.decompress(content), True) if is_packed else (content, False)


def _store(path: Path, content: bytes, is_packed: bool) -> None:
    path.write_bytes(gzip.compress(content, 1) if is_packed else content)


def flip_bytes(rng: random.Random, folder: Path) -> str:
    """Change a few bytes anywhere, most often in the first kilobyte, where formats state their sizes."""
    path = pick(rng, folder)
    assert path is not None
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 2, 8, 64))):
        if content:
            at = rng.randrange(len(content) if rng.random() < 0.5 else min(len(content), 1024))
            content[at] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    path.write_bytes(content)
    return path.name


def set_integer(rng: random.Random, folder: Path) -> str:
    """Write a large or odd integer over four or eight bytes."""
    path = pick(rng, folder)
    assert path is not None
    content = bytearray(path.read_bytes())
    width, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
    value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2**16 - 1, 10**4))
    if len(content) > width:
        at = rng.randrange(min(len(content) - width, rng.choice((64, 1024, 10**9))))
        content[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
    path.write_bytes(content)
    return path.name


def cut(rng: random.Random, folder: Path) -> str:
    """Cut a file off, also what is packed in it."""
    path = pick(rng, folder)
    assert path is not None
    content, is_packed = _content(path) if rng.random() < 0.5 else (path.read_bytes(), False)
    _store(path, content[: rng.randrange(len(content) + 1)], is_packed)
    return path.name


def splice(rng: random.Random, folder: Path) -> str:
    """Repeat, remove or move a block of a file."""
    path = pick(rng, folder)
    assert path is not None
    content = path.read_bytes()
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    block = content[start:end]
    path.write_bytes(
        rng.choice((content[:end] + block + content[end:], content[:start] + content[end:], block + content))
    )
    return path.name


def swap_files(rng: random.Random, folder: Path) -> str:
    """Put the content of one file into another."""
    one, other = pick(rng, folder), pick(rng, folder)
    assert one is not None and other is not None
    one.write_bytes(other.read_bytes())
    return f"{one.name} <- {other.name}"


def change_kind(rng: random.Random, folder: Path) -> str:
    """Replace a file by a pipe, a device, a folder, a link of any kind, nothing, or a file of 0 bytes."""
    path = pick(rng, folder)
    assert path is not None
    how = rng.choice(("fifo", "zero", "folder", "dead link", "own link", "hosts", "gone", "empty", "unreadable name"))
    content = path.read_bytes()
    path.unlink()
    match how:
        case "fifo":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "dead link":
            path.symlink_to(path.with_name("nowhere"))
        case "own link":
            path.symlink_to(path)
        case "hosts":
            path.symlink_to("/etc/hosts")
        case "empty":
            path.touch()
        case "unreadable name":
            Path(os.fsdecode(os.fsencode(path) + b"\xff")).write_bytes(content)
    return f"{path.name} {how}"


TEXT_ENDINGS = (".csv", ".tsv", ".tsv.gz", ".mtx.gz", ".csv.gz", ".txt", ".yml", ".vms")


def change_cell(rng: random.Random, folder: Path) -> str:
    """Replace cells of a table by odd numbers or texts."""
    path = pick(rng, folder, *TEXT_ENDINGS)
    if path is None:
        return flip_bytes(rng, folder)
    content, is_packed = _content(path)
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(rng.choice((1, 1, 5))):
        row = rng.randrange(min(len(lines), rng.choice((3, 1000))))
        mark = next((m for m in ("\t", ",", ": ", "=", " ") if m in lines[row]), ",")
        cells = lines[row].split(mark)
        cells[rng.randrange(len(cells))] = rng.choice(NUMBERS + TEXTS)
        lines[row] = mark.join(cells)
    _store(path, "\n".join(lines).encode("utf-8", "surrogateescape"), is_packed)
    return path.name


def change_table(rng: random.Random, folder: Path) -> str:
    """Repeat, drop, swap, widen or re-encode lines and columns of a table."""
    path = pick(rng, folder, *TEXT_ENDINGS)
    if path is None:
        return splice(rng, folder)
    content, is_packed = _content(path)
    lines = content.split(b"\n")
    how = rng.choice(
        ("repeat", "drop", "shuffle", "wide", "utf-16", "cr", "quote", "many", "bomb", "separator", "blank")
    )
    at = rng.randrange(len(lines))
    match how:
        case "repeat":
            lines.insert(at, lines[rng.randrange(len(lines))])
        case "drop":
            del lines[at]
        case "shuffle":
            rng.shuffle(lines)
        case "wide":
            lines[at] += rng.choice((b",", b"\t", b" ")) * rng.choice((1, 100, 300_000))
        case "quote":
            lines[at] = b'"' + lines[at]
        case "many":
            lines += lines[-3:] * 2000
        case "separator":
            lines = [line.replace(b",", b";").replace(b"\t", b" ") for line in lines]
        case "blank":
            lines[at:at] = [b""] * rng.choice((1, 100_000))
    content = b"\n".join(lines)
    if how in {"utf-16", "cr"}:
        content = (
            content.decode("utf-8", "replace").encode("utf-16") if how == "utf-16" else content.replace(b"\n", b"\r")
        )
    if how == "bomb":
        content, is_packed = content + b"0\n" * 2**22, True
    _store(path, content, is_packed)
    return f"{path.name} {how}"


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return all places of nested data, as holders and keys, in `found`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found.append((value, key))
        places(part, found)
    return found


def change_json(rng: random.Random, folder: Path) -> str:
    """Replace, remove or nest values of JSON: scale factors, descriptions of arrays and groups."""
    path = pick(rng, folder, ".json", ".zattrs", ".zarray")
    if path is None:
        return change_cell(rng, folder)
    record = json.loads(path.read_text())
    how = rng.choice(("value", "value", "size", "remove", "deep", "codec", "list"))
    all_places = places(record, [])
    holder, key = rng.choice(all_places)
    if how == "deep":
        path.write_text(json.dumps(record)[:-1] + ', "a": ' + "[" * 100_000)
        return f"{path.name} deep"
    numbers = [place for place in all_places if type(place[0][place[1]]) is int] or all_places
    if how == "size":
        holder, key = rng.choice(numbers)
    codecs = [place for place in all_places if place[1] in {"codecs", "filters", "compressor"}]
    if how == "codec" and codecs:
        holder, key = rng.choice(codecs)
        holder[key] = rng.choice(
            ([{"id": "pickle"}], [{"name": "numcodecs.pickle", "configuration": {}}], [1], {"a": 1})
        )
    elif how == "remove" and isinstance(holder, dict):
        del holder[key]
    elif how == "list":
        holder[key] = [holder[key]] * rng.choice((0, 2, 1000))
    else:
        holder[key] = rng.choice((10**6, 10**10, 2**40, -5)) if how == "size" else rng.choice(VALUES)
    path.write_text(json.dumps(record))
    return f"{path.relative_to(folder)} {key} {how}"


NEW_PARTS = ("huge", "wide", "group", "text", "type")


def _new_part(rng: random.Random, file: Any, name: str, how: str, shape: tuple[int, ...]) -> None:
    import numpy as np

    packed = {"chunks": (2**16,), "compression": "gzip"}
    match how:
        case "huge":
            kind = rng.choice(("i4", "f8", "S20"))
            file.create_dataset(name, shape=(rng.choice((10**9, 10**12)),), dtype=kind, **packed)
        case "wide":
            file.create_dataset(name, shape=(rng.choice((0, 24, 10**9)), 10**6), dtype="u1", chunks=(1, 1000))
        case "group":
            file.create_group(name)
        case "text":
            file[name] = rng.choice(TEXTS).replace("\x00", "0")
        case _:
            file[name] = np.zeros(shape or 3, rng.choice(("f4", "u1", "S3", "i8", "complex64", "bool")))


def change_hdf5(rng: random.Random, folder: Path) -> str:
    """Replace, resize, link or remove parts of an HDF5 file, or change their attributes."""
    import h5py

    path = pick(rng, folder, ".h5", ".h5ad")
    if path is None:
        return set_integer(rng, folder)
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        how = rng.choice(
            ("huge", "wide", "value", "type", "remove", "group", "link", "twice", "attribute", "deep", "text")
        )
        attributes = dict(file[name].attrs)
        shape = file[name].shape if isinstance(file[name], h5py.Dataset) else ()
        if how == "attribute" and attributes:
            key = rng.choice(sorted(attributes))
            file[name].attrs[key] = rng.choice(("", "x", 7, -1, [3, 2**40], "csr_matrix", "dict", "array", b"\xff"))
        elif how in {"twice", "link"}:
            other = f"{rng.choice([n for n in names if isinstance(file[n], h5py.Group)] or ['/'])}/more"
            if other not in file:
                file[other] = file[name] if how == "twice" else h5py.ExternalLink("/etc/hosts", "/")
        elif how == "deep":
            group = file.require_group("uns/more")
            for _ in range(rng.choice((30, 500))):
                below = group.create_group("a")
                group["b"] = below
                group = below
        elif how == "value" and shape and file[name].dtype.kind in "iuf":
            values = file[name][:]
            values.flat[rng.randrange(values.size)] = rng.choice((-1, 0, 2**31 - 1, 10**6, 127)) if values.size else 0
            file[name][...] = values
        else:
            del file[name]
            if how in NEW_PARTS:
                _new_part(rng, file, name, how, shape)
                file[name].attrs.update(attributes)
    return f"{path.name} {name} {how}"


def change_parquet(rng: random.Random, folder: Path) -> str:
    """Write a parquet table again with other columns, types or very many rows."""
    import pyarrow as pa
    from pyarrow import parquet

    path = pick(rng, folder, ".parquet")
    if path is None:
        return change_table(rng, folder)
    table = parquet.read_table(path)
    column = rng.randrange(table.num_columns)
    how = rng.choice(("drop", "null", "text", "wide", "long", "empty", "nested", "bytes"))
    name, n = table.column_names[column], table.num_rows
    match how:
        case "drop":
            table = table.drop_columns([name])
        case "null" | "text" | "nested":
            values = {"null": pa.nulls(n), "text": pa.array(["x"] * n), "nested": pa.array([[1]] * n)}[how]
            table = table.set_column(column, name, values)
        case "wide":
            table = pa.table({f"c{i}": pa.nulls(1) for i in range(3000)})
        case "long":
            table = pa.concat_tables([table] * 2000)
        case "empty":
            table = table.slice(0, 0)
        case "bytes":
            return flip_bytes(rng, folder)
    parquet.write_table(table, path)
    return f"{path.name} {name} {how}"


def change_stores(rng: random.Random, folder: Path) -> str:
    """Remove, double or link out a folder."""
    folders = sorted(p for p in folder.rglob("*") if p.is_dir())
    if not folders:
        return cut(rng, folder)
    path = rng.choice(folders)
    how = rng.choice(("gone", "empty", "link", "twice"))
    if how == "twice":
        shutil.copytree(path, path.with_name(f"{path.name}_2"), dirs_exist_ok=True)
        return f"{path.name} twice"
    if how == "link":
        away = folder.with_name(f"{folder.name}_away")
        shutil.rmtree(away, ignore_errors=True)
        shutil.copytree(path, away)
    shutil.rmtree(path)
    if how == "empty":
        path.mkdir()
    if how == "link":
        path.symlink_to(away)
    return f"{path.name} {how}"


TIFF_TAGS = (
    254,
    256,
    257,
    258,
    259,
    262,
    270,
    273,
    274,
    277,
    278,
    279,
    282,
    284,
    317,
    322,
    323,
    324,
    325,
    330,
    338,
    339,
)
MORE_TAGS = (347, 530, 700, 65420, 65421, 65424, 65426, 65449)
TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class _Tiff:
    """The bytes of a TIFF, and where its directories have what."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.order: Any = "little" if content[:2] == b"II" else "big"
        self.wide = 8 if self.get(2, 2) == 43 else 4  # bytes of an offset: 43 is the mark of BigTIFF
        head = 2 if self.wide == 4 else 8
        self.entries: list[int] = []
        self.ends: list[int] = []  # places of the number of entries and of the offset of the next directory
        place = self.get(self.wide, self.wide)
        while place and len(self.ends) < 20:
            n = min(self.get(place, head), 1000)
            self.entries += [place + head + i * (4 + 2 * self.wide) for i in range(n)]
            self.ends += [place, place + head + n * (4 + 2 * self.wide)]
            place = self.get(self.ends[-1], self.wide)

    def get(self, place: int, width: int) -> int:
        return int.from_bytes(self.content[place : place + width], self.order)

    def put(self, place: int, width: int, value: int) -> None:
        self.content[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, self.order)

    def values(self, entry: int) -> tuple[int, int, int]:
        """Return where the values of an entry lie, how many bytes each takes, and how many there are."""
        width, n = TIFF_BYTES.get(self.get(entry + 2, 2), 1), self.get(entry + 4, self.wide)
        inside = entry + 4 + self.wide
        return (inside if n * width <= self.wide else self.get(inside, self.wide)), width, n


def change_tiff(rng: random.Random, folder: Path) -> str:
    """Change tag, type, number or values of an entry of a TIFF's directories, a number in its texts, or a link."""
    found = [p for p in files_of(folder) if p.read_bytes()[:4] in {b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"}]
    if not found:
        return rng.choice((change_cell, flip_bytes, set_integer))(rng, folder)
    path = rng.choice(found)
    tiff = _Tiff(path.read_bytes())
    size, entry = len(tiff.content), rng.choice(tiff.entries)
    how = rng.choice(("value", "value", "values", "values", "tag", "type", "count", "count", "link", "text", "text"))
    place, width, n = tiff.values(entry)
    odd = (0, 1, 2, 3, 7, 16, 255, size - 1, size, size + 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, -1)
    texts = [e for e in tiff.entries if tiff.get(e + 2, 2) in {1, 2, 7} and tiff.values(e)[2] > 20]
    match how:
        case "tag":
            tiff.put(entry, 2, rng.choice(TIFF_TAGS + MORE_TAGS))
        case "type":
            tiff.put(entry + 2, 2, rng.choice([*TIFF_BYTES, 0, 14, 255]))
        case "count":
            tiff.put(entry + 4, tiff.wide, rng.choice((*odd, n - 1, n + 1, 2 * n)))
        case "link":
            start = rng.choice(tiff.ends)
            tiff.put(start, tiff.wide if start in tiff.ends[1::2] else 2, rng.choice((*odd, *tiff.ends, *tiff.entries)))
        case "text" if texts:
            start, _, length = tiff.values(rng.choice(texts))
            numbers = list(re.finditer(rb"\d+", tiff.content[start : start + length]))
            if numbers:
                one = rng.choice(numbers)
                new = rng.choice(("9" * 40, "0" * 40, "-1" + " " * 40, "nan" + " " * 40, "1e999" + " " * 40, "x" * 40))
                span = slice(start + one.start(), start + one.end())
                tiff.content[span] = new[: span.stop - span.start].encode()
        case "values":
            at = place + width * rng.randrange(max(1, min(n, 10**4)))
            tiff.put(at, min(width, 4), rng.choice(odd))
        case _:
            tiff.put(
                entry + 4 + tiff.wide, tiff.wide, rng.choice((*odd, tiff.get(entry + 4 + tiff.wide, tiff.wide) + 1))
            )
    tag = tiff.get(entry, 2)
    path.write_bytes(tiff.content)
    return f"{path.name} {tag} {how}"

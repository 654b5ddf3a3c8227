"""Changes to files of weights: header, tensors and texts of safetensors, and torch's zip of a pickle."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import NUMBERS, TEXTS, VALUES, flip_bytes, pick, places

TENSOR_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "I16": 2, "F32": 4, "I32": 4, "U32": 4}
TENSOR_BYTES |= {"F64": 8, "I64": 8, "U64": 8, "C64": 8}
SIZES = (0, 1, 2, 7, 2**31, 2**40, 2**63 - 1, 2**64, -1)
FILLINGS = (b"\0\0\xc0\x7f", b"\0\0\0\0\0\0\xf8\x7f", b"\xff", b"\0", b"\x01\0\0\0", b"\0\0\0\0\0\0\xf0\xbf")


def _split_tensors(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    n = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def _join_tensors(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def change_tensors(rng: random.Random, folder: Path) -> str:
    """Change the header of a safetensors file, or a whole tensor: its values, its type or its shape, consistently."""
    path = pick(rng, folder, ".safetensors")
    if path is None:
        return change_pickle(rng, folder)
    header, data = _split_tensors(path)
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    how = rng.choice(
        ("header", "header", "size", "drop", "rename", "twice", "type", "shape", "fill", "number", "length")
    )
    start, stop = header[name]["data_offsets"]
    match how:
        case "header":
            holder, key = rng.choice(places({n: v for n, v in header.items() if n != "__metadata__"}, []))
            holder[key] = rng.choice([*VALUES, *SIZES, "F32", "I64", "C64", "F4"])
        case "size":
            header[name][rng.choice(("shape", "data_offsets"))] = [rng.choice(SIZES) for _ in range(rng.randrange(4))]
        case "drop":
            del header[name]
        case "rename":
            header[rng.choice([*TEXTS, *names])] = header.pop(name)
        case "twice":
            header[f"{name}.more"] = header[name]
        case "type":  # of the same number of bytes
            kinds = [k for k, width in TENSOR_BYTES.items() if width == TENSOR_BYTES.get(header[name]["dtype"])]
            header[name]["dtype"] = rng.choice(kinds)
        case "shape":
            n = math.prod(header[name]["shape"])
            header[name]["shape"] = rng.choice(([n], [n, 1], [1, n], [0, n], header[name]["shape"][::-1]))
        case "fill" | "number":
            whole, filling = bytearray(data), rng.choice(FILLINGS)
            n = 1 if how == "number" else (stop - start) // len(filling)
            at = start + (8 * rng.randrange(max(1, (stop - start) // 8)) if how == "number" else 0)
            whole[at : at + n * len(filling)] = filling * n
            data = bytes(whole[: len(data)])
    _join_tensors(path, header, data)
    if how == "length":
        content = path.read_bytes()
        length = rng.choice((0, 1, 10**8, 10**9, 2**63, 2**64 - 1, len(content)))
        path.write_bytes(length.to_bytes(8, "little") + content[8:])
    return f"{path.name} {name} {how}"


def cast_tensor(rng: random.Random, folder: Path) -> str:
    """Write a tensor of a safetensors file in another type or cut along an axis, the rest of the file as it was."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    path = pick(rng, folder, ".safetensors")
    if path is None:
        return change_pickle(rng, folder)
    metadata = _split_tensors(path)[0].get("__metadata__")
    arrays = load_file(path)
    name = rng.choice(sorted(arrays))
    how = rng.choice(("f2", "f4", "f8", "i4", "i8", "u1", "bool", "c8", "cut", "grow", "scale", "negative", "shuffle"))
    value = arrays[name]
    with np.errstate(all="ignore"):
        match how:
            case "cut":
                arrays[name] = np.ascontiguousarray(value[..., :-1] if value.ndim else value)
            case "grow":
                arrays[name] = np.stack([value, value])
            case "scale":
                arrays[name] = (value * rng.choice((0, 1e30, 1e-30, 1e300))).astype(value.dtype)
            case "negative":
                arrays[name] = -value
            case "shuffle":
                arrays[name] = np.ascontiguousarray(value.reshape(-1)[::-1].reshape(value.shape))
            case _:
                arrays[name] = value.astype(how)
    save_file(arrays, path, metadata=metadata)
    return f"{path.name} {name} {how}"


def change_texts(rng: random.Random, folder: Path) -> str:
    """Change the texts inside a stored model: JSON within JSON within the header of a safetensors file."""
    path = pick(rng, folder, ".safetensors")
    if path is None:
        return change_pickle(rng, folder)
    header, data = _split_tensors(path)
    texts = json.loads(header["__metadata__"]["spamcaf"])
    name = rng.choice(sorted(texts))
    value, how = (
        json.loads(texts[name]),
        rng.choice(("value", "value", "size", "gone", "text", "remove", "deep", "list")),
    )
    holder, key = rng.choice(places(value, []) or [({}, "")])
    match how:
        case "gone":
            del texts[name]
        case "text":
            texts[name] = rng.choice([*TEXTS, *NUMBERS])
        case "deep":
            texts[name] = "[" * 100_000
        case "remove":
            del holder[key]
            texts[name] = json.dumps(value)
        case "list" if isinstance(value, list) and value:
            texts[name] = json.dumps(rng.choice((value[:-1], value + value[:1], value[:1] * len(value), [])))
        case _:
            holder[key] = rng.choice(SIZES) if how == "size" else rng.choice(VALUES)
            texts[name] = json.dumps(value)
    whole: Any = json.dumps(texts) if rng.random() < 0.95 else rng.choice((texts, [], "[]", "{", "3", None))
    header["__metadata__"]["spamcaf"] = whole
    _join_tensors(path, header, data)
    return f"{path.name} {name} {key} {how}"


class _Call:
    """Calls a function with arguments where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def _traps(canary: Path) -> list[Any]:
    """Return objects that write a file where they are unpickled."""
    import torch
    from torch.storage import _load_from_bytes

    plain = _Call(os.system, f"touch {canary}")
    return [
        plain,
        _Call(Path.touch, canary),
        _Call(exec, f"open({str(canary)!r}, 'w')"),
        _Call(_load_from_bytes, pickle.dumps(_Call(Path.touch, canary))),  # once a way around `weights_only`
        _Call(torch.load, str(canary.with_name("in")), None, pickle),
        {"norm.weight": plain},
        [torch.zeros(1), _Call(getattr, _Call(__import__, "os"), "system")],
    ]


def _odd_tensors(rng: random.Random) -> Any:
    """Return what torch stores and is no table of the right tensors."""
    import torch

    ones = torch.ones(16)
    name, odd = "norm.weight", {"i": ones.long(), "c": ones.to(torch.complex64), "b": ones.bool(), "n": ones * math.nan}
    made: list[Any] = [
        *odd.values(),
        ones.to_sparse(),
        ones.to("meta"),
        torch.quantize_per_tensor(ones, 0.1, 0, torch.quint8),
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(1).expand(16),
        torch.nn.Parameter(ones),
        torch.zeros(0, 16),
        ones.to(torch.float8_e4m3fn),
        torch.zeros(()),
        "x",
        {"a": ones},
    ]
    value = rng.choice(made)
    return rng.choice(({name: value}, {name: value}, [value], value, {3: value}, {"state_dict": {name: value}}))


def change_pickle(rng: random.Random, folder: Path) -> str:
    """Change a file of torch's: by one that runs code, by other tensors, or members of its zip."""
    import torch

    path = pick(rng, folder, ".bin")
    if path is None:
        return flip_bytes(rng, folder)
    trap, how = rng.choice(_traps(folder.with_name("canary"))), rng.choice(("run", "odd", "zip", "zip", "zip"))
    if how == "zip" and zipfile.is_zipfile(path):
        return _change_zip(rng, path, trap)
    if how == "odd":
        given, found = _odd_tensors(rng), torch.load(path, weights_only=True)
        table = found | given if isinstance(given, dict) and rng.random() < 0.8 else given
        torch.save(table, path, _use_new_zipfile_serialization=rng.random() < 0.8)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=rng.choice((0, 2, 4))))
    return f"{path.name} {how}"


def _change_zip(rng: random.Random, path: Path, trap: Any) -> str:
    how = rng.choice(("run", "run", "flip", "flip", "gone", "pack", "bomb", "name", "order"))
    packed = zipfile.ZIP_STORED
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    name = rng.choice(sorted(parts))
    match how:
        case "run":
            parts[pickled] = pickle.dumps(trap, protocol=2)
        case "flip":
            content = bytearray(parts[pickled])
            for _ in range(rng.choice((1, 2, 8))):
                content[rng.randrange(len(content))] = rng.randrange(256)
            parts[pickled] = bytes(content)
        case "gone":
            del parts[name]
        case "pack":
            packed = zipfile.ZIP_DEFLATED
        case "bomb":
            parts[name], packed = parts[name] + bytes(2**27), zipfile.ZIP_DEFLATED
        case "name":
            parts[rng.choice(("../../x", "/x", name.upper(), ""))] = parts.pop(name)
        case "order":
            parts |= {n: rng.choice((b"big", b"x", b"")) for n in parts if n.endswith(("byteorder", "version"))}
    with zipfile.ZipFile(path, "w", packed) as file:
        for member, content in parts.items():
            file.writestr(member, content)
    return f"{path.name} {how} {name if how in {'gone', 'bomb', 'name'} else ''}"

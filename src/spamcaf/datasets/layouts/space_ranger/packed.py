"""Files that may be packed: gzip is undone where a file is small, and asked for where it is not."""

from __future__ import annotations

import gzip
from pathlib import Path

from spamcaf.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
ARCHIVES = (".tar", ".tar.gz", ".tgz")


def unpacked(path: Path) -> bytes:
    """Return the content of a file, gzipped or not, whatever it is called."""
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content


def is_gzipped(path: Path) -> bool:
    """Tell whether the file at `path` is gzipped, by its content."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def still_packed(path: Path, expected: str) -> InputError:
    """Return the error for a file that cannot be read in place, which says how to unpack it."""
    name = path.name.lower()
    tool = "unzip" if name.endswith(".zip") else "tar -xf" if name.endswith(ARCHIVES) else "gunzip"
    return InputError(f"{path} is packed.", f"{expected}, unpacked.", f"In its folder, unpack it: {tool} {path.name}.")

"""Naming what lies in a folder, for error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_LISTED = 20


def listing(folder: Path, first: str = "") -> str:
    """Name what is in `folder`, beginning with what is called as `first`."""
    if not folder.is_dir():
        return "that is a file" if folder.is_file() else "there is no such folder"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    names.sort(key=lambda name: not name.startswith(first))
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "nothing") + more

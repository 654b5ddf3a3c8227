"""Naming what lies in a folder, for error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_LISTED = 20


def listing(folder: Path) -> str:
    """Name what is in `folder`."""
    if not folder.is_dir():
        return "that is a file" if folder.is_file() else "there is no such folder"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return (", ".join(names[:MAX_LISTED]) or "nothing") + more

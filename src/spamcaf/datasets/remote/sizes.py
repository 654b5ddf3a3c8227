"""Sizes: in words, as a server says them, and as the disk has room for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from spamcaf.datasets.remote.urls import host_of
from spamcaf.errors import InputError

HEAD_TIMEOUT_S = 10
USER_AGENT = "spamcaf"  # some hosts refuse the default one of Python's libraries
HEADERS = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}


def in_words(n_bytes: int) -> str:
    """Return a size as people say it: 12.3 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} B"


def sizes_of(urls: Iterable[str]) -> list[int | None]:
    """Return the size that each URL's server says, else None; a host that is out of reach is asked once."""
    import requests

    silent: set[str] = set()
    sizes: list[int | None] = []
    for url in urls:
        size = None
        if host_of(url) not in silent:
            try:
                answer = requests.head(url, headers=HEADERS, timeout=HEAD_TIMEOUT_S, allow_redirects=True)
                length = answer.headers.get("content-length", "")
                size = int(length) if answer.ok and length.isdigit() else None
            except requests.RequestException:
                silent.add(host_of(url))
        sizes.append(size or None)
    return sizes


def require_room(folder: Path, n_bytes: int) -> None:
    """Raise InputError unless the disk of `folder` (which need not exist yet) has `n_bytes` free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{in_words(free)} free on the disk of {folder}.",
            f"room for {in_words(n_bytes)}.",
            "Free some space, or choose another place: --params raw_root=<folder>.",
        )

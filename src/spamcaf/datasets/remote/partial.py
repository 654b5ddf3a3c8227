"""A file that is not whole yet: its bytes so far, and which version of the remote file they are of."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from spamcaf.errors import InputError


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a partial file come from: URL, the server's mark of the version, and its whole size."""

    url: str
    mark: str | None  # a strong ETag, or Last-Modified
    total: int | None  # bytes of the whole file, where the server says


class PartialFile:
    """`<file>.part` beside the target, and `<file>.part.json` which says what it is a part of.

    `begin` opens it, once there is an answer worth keeping; `write` and `flush` are what a downloader calls.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._handle: BinaryIO | None = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def origin(self) -> Origin | None:
        """What the bytes are a part of; None where nothing sure is known."""
        try:
            return Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def can_go_on(self, url: str) -> bool:
        """Tell whether the rest alone can be asked for: same URL, and a mark that shows a change."""
        origin = self.origin
        return self.size > 0 and origin is not None and origin.url == url and origin.mark is not None

    def is_complete(self, url: str) -> bool:
        """Tell whether the bytes are all there, as after a kill between the last byte and the check."""
        origin = self.origin
        return self.can_go_on(url) and origin is not None and origin.total == self.size

    def begin(self, origin: Origin, *, anew: bool) -> None:
        """Open for the bytes that follow, at the end or `anew`, and write down what they are of."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._handle = self.path.open("wb" if anew else "ab")
        self._note.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def write(self, piece: bytes) -> int:
        """Add a piece."""
        if self._handle is None:
            raise ValueError("nothing has begun")
        return self._handle.write(piece)

    def flush(self) -> None:
        """Hand what was written to the system."""
        if self._handle is not None:
            self._handle.flush()

    def close(self) -> None:
        """Close, leaving the bytes for the next try."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def finish(self) -> None:
        """Move the whole, checked file to its place; what already lies there is never replaced."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        if self.target.exists():
            raise InputError(
                f"{self.target} appeared while it was downloaded.",
                "nobody else to write it.",
                f"Keep it and delete {self.path.name}, or move it away and run again.",
            )
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete what is there."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

"""The files that a data set publishes for one section: a lazy handle."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from spamcaf.datasets.remote import archive, mirrors, sizes
from spamcaf.datasets.remote.answer import TransferError
from spamcaf.datasets.remote.partial import PartialFile
from spamcaf.datasets.remote.spec import RemoteFile
from spamcaf.errors import InputError


class Status(StrEnum):
    """What became of a file."""

    PRESENT = "present"
    FETCHED = "fetched"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `source` is the URL, or where a person finds it; `reason` says why it failed."""

    file: str
    status: Status
    bytes: int | None = None
    sha256: str | None = None
    source: str = ""
    reason: str = ""


@dataclass(frozen=True)
class RemoteFiles:
    """Knows which files of `section` are missing under `root`, how large they are, and fetches one."""

    root: Path
    section: str
    files: tuple[RemoteFile, ...]
    _out_of_reach: set[str] = field(default_factory=set, repr=False, compare=False)

    def is_present(self, file: RemoteFile) -> bool:
        """Tell whether `file` (of an archive: all that it yields) is there; raise InputError if it is another one."""
        place = self._place(file)
        if place is not None:
            _require_same(file, place)
        return self._is_unpacked(file) if file.unpack else place is not None

    def missing(self) -> tuple[RemoteFile, ...]:
        """Return the files that are not there yet."""
        return tuple(file for file in self.files if not self.is_present(file))

    def sizes(self, files: tuple[RemoteFile, ...]) -> list[int | None]:
        """Return the bytes of each file: as pinned, else as its server says, else None."""
        asked = [file.urls[0] for file in files if file.bytes is None and file.urls]
        said = dict(zip(asked, sizes.sizes_of(asked), strict=True))
        return [file.bytes or (said[file.urls[0]] if file.urls else None) for file in files]

    def require_room(self, files: tuple[RemoteFile, ...], file_sizes: list[int | None]) -> None:
        """Raise InputError unless the disk has room for what is known to come."""
        there = sum(PartialFile(self.root / file.path).size for file in files)
        sizes.require_room(self.root, sum(size or 0 for size in file_sizes) - there)

    def fetch(self, file: RemoteFile) -> Outcome:
        """Fetch `file` unless it is there, and unpack it; a file that cannot be had is an outcome, not an error.

        Raises InputError where what lies there is another file, or an archive cannot be unpacked.
        """
        if self.is_present(file):
            return self._there(file, Status.PRESENT)
        try:
            source = self._bring(file)
        except TransferError as error:
            return Outcome(file.path, Status.FAILED, source=file.urls[0], reason=str(error))
        except OSError as error:
            raise InputError(
                f"{self.root / file.path} cannot be written ({error}).",
                "a folder that may be written, on a disk with room.",
                "Run again when it is: it goes on where it stopped. Or choose another: --params raw_root=<folder>.",
            ) from error
        if source is None:
            return Outcome(file.path, Status.FAILED, source=file.by_hand, reason="has to be put there by hand")
        if file.unpack:
            self._unpack(file)
        return self._there(file, Status.FETCHED, source)

    def _bring(self, file: RemoteFile) -> str | None:
        """Return the URL that gave the file; an archive that is there but not unpacked needs none."""
        if not file.urls:
            return None
        if file.unpack and self._place(file) is not None:
            return file.urls[0]
        return mirrors.fetch_from_mirrors(file, self.root / file.path, self._out_of_reach)

    def _unpack(self, file: RemoteFile) -> None:
        packed = self.root / file.path
        archive.unpack(packed, str(file.unpack))
        if not self._is_unpacked(file):
            raise InputError(
                f"{packed} without some of {', '.join(file.yields)}.",
                "an archive that holds them.",
                "Move it away and run again, or correct `downloads` in globals.yml.",
            )

    def _there(self, file: RemoteFile, status: Status, url: str = "") -> Outcome:
        place = self._place(file)
        if place is None:  # an archive that was unpacked and thrown away
            return Outcome(file.path, status)
        return Outcome(file.path, status, place.stat().st_size, mirrors.sha256_of(place), url)

    def _is_unpacked(self, file: RemoteFile) -> bool:
        folder = (self.root / file.path).parent
        return all((folder / path).is_file() for path in file.yields)

    def _place(self, file: RemoteFile) -> Path | None:
        """Return where the file lies; a pattern of a file put there by hand stands for its first match."""
        if "*" in file.path:
            return next((path for path in sorted(self.root.glob(file.path)) if path.is_file()), None)
        path = self.root / file.path
        return path if path.exists() else None


def _require_same(file: RemoteFile, path: Path) -> None:
    wrong = ("no file", "a file") if not path.is_file() else mirrors.misfit(file, path)
    if wrong:
        raise InputError(
            f"{path} with {wrong[0]}.",
            f"{wrong[1]}, as published; a file that is there is never replaced.",
            "Move it away and run again, or choose another folder with --params raw_root=<folder>.",
        )

"""The published files of a section as a catalog entry."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from pydantic import ValidationError

from spamcaf.download.fetch import RemoteFiles
from spamcaf.download.spec import FileSpec, RemoteFile
from spamcaf.errors import InputError


class RemoteFilesDataset(AbstractDataset[RemoteFiles, RemoteFiles]):
    """Load a lazy handle on the files that a data set publishes for one section; read-only.

    Parameters
    ----------
    filepath
        Folder where the files belong (raw_root).
    section
        Name of the section.
    files
        The list `downloads` of globals.yml; each entry is a `spamcaf.download.spec.FileSpec`. Loading fetches nothing.
    metadata
        For Kedro plugins.
    """

    def __init__(
        self, *, filepath: str, section: str | int, files: list[dict[str, Any]], metadata: dict[str, Any] | None = None
    ) -> None:
        self._root, self._section, self._entries = Path(filepath), str(section), files
        self.metadata = metadata

    def load(self) -> RemoteFiles:
        if not self._entries:
            raise InputError(
                "nothing to download in this environment.",
                "an environment whose globals.yml has a list `downloads`.",
                "Name one with --env: dlpfc, mouse_brain, bc1, bc2 or her2st.",
            )
        if not isinstance(self._entries, list):
            raise InputError(f"downloads = {self._entries!r}.", "a list of files.", "Correct it in globals.yml.")
        specs = [_checked(number, entry) for number, entry in enumerate(self._entries, start=1)]
        return RemoteFiles(self._root, self._section, _files_of(specs, self._section))

    def save(self, data: RemoteFiles) -> None:
        raise DatasetError("Published files are read-only.")

    def _exists(self) -> bool:
        return bool(self._entries)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._root), "section": self._section}


def _checked(number: int, entry: object) -> FileSpec:
    try:
        return FileSpec.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"a wrong entry {number} of `downloads`: {place} {message}.".replace(":  ", ": "),
            "the keys that the shipped environments use.",
            "Correct it in globals.yml.",
        ) from error


def _files_of(specs: list[FileSpec], section: str) -> tuple[RemoteFile, ...]:
    known: frozenset[str] = frozenset().union(*(spec.known for spec in specs))
    if known and section not in known:
        raise InputError(
            f"no section '{section}' in this data set.",
            f"one of {', '.join(sorted(known))}.",
            "Choose one: --params section=<name>.",
        )
    return tuple(file for file in (spec.of(section) for spec in specs) if file is not None)

"""The published files of a section as a catalog entry."""

from __future__ import annotations

from typing import Any

from spamcaf.datasets.stored import ReadOnlyDataset, validated
from spamcaf.download.fetch import RemoteFiles
from spamcaf.download.spec import FileSpec
from spamcaf.errors import InputError, did_you_mean


class RemoteFilesDataset(ReadOnlyDataset):
    """Load a lazy handle on the files that a data set publishes for one section; read-only, and nothing is fetched.

    Parameters
    ----------
    filepath
        Folder where the files belong (raw_root).
    files
        The list `downloads` of globals.yml; each entry is a `spamcaf.download.spec.FileSpec`.
    """

    instead = "Published files are read-only."
    shown = ("filepath", "section")

    def __init__(
        self, *, filepath: str, section: str | int, files: list[dict[str, Any]], metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._section, self._entries = str(section), files

    def load(self) -> RemoteFiles:
        if not self._entries:
            raise InputError(
                "nothing to download in this environment.",
                "an environment whose globals.yml has a list `downloads`.",
                "Name one with --env: dlpfc, mouse_brain, bc1, bc2 or her2st.",
            )
        if not isinstance(self._entries, list):
            raise InputError(f"downloads = {self._entries!r}.", "a list of files.", "Correct it in globals.yml.")
        specs = [validated(FileSpec, entry, f"{i} of `downloads`") for i, entry in enumerate(self._entries, start=1)]
        known: frozenset[str] = frozenset().union(*(spec.known for spec in specs))
        if known and self._section not in known:
            found, near = f"no section '{self._section}' in this data set.", did_you_mean(self._section, known)
            raise InputError(
                found, f"one of {', '.join(sorted(known))}.", f"{near}Choose one: --params section=<name>."
            )
        files = tuple(filter(None, (spec.of(self._section) for spec in specs)))
        return RemoteFiles(self._filepath, self._section, files)

    def _exists(self) -> bool:
        return bool(self._entries)

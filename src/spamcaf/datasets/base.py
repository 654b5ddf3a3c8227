"""What all stored results share: one path, written atomically, and clear errors when it is absent or damaged."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from kedro.io import AbstractDataset

from spamcaf.atomic import replacing
from spamcaf.errors import InputError, is_fault_of_ours

In = TypeVar("In")
Out = TypeVar("Out")


class StoredDataset(AbstractDataset[In, Out]):
    """A result stored in one file or folder.

    A subclass says in `_write` and `_read` how. A save that fails or is killed leaves the previous result as it was;
    a load raises InputError when there is no result, or a damaged one.
    """

    kind: ClassVar[str]
    """What the path should hold, for the error message."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    @abstractmethod
    def _read(self, path: Path) -> Out:
        """Return what is stored at `path`; OSError, KeyError, ValueError and TypeError mean that it is damaged."""

    @abstractmethod
    def _write(self, data: In, path: Path) -> None:
        """Write `data` to `path`, where nothing is yet."""

    def load(self) -> Out:
        """Return the result, or raise InputError."""
        if not self._exists():
            raise not_stored(self._filepath)
        try:
            return self._read(self._filepath)
        except (OSError, KeyError, ValueError, TypeError) as error:
            if is_fault_of_ours(error):
                raise
            raise InputError(
                f"{self._filepath} cannot be read ({error}).", f"{self.kind}.", "Run the pipeline that writes it again."
            ) from error

    def save(self, data: In) -> None:
        """Replace the result, wholly or not at all."""
        with replacing(self._filepath) as temporary:
            self._write(data, temporary)

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._filepath)}


def not_stored(path: Path) -> InputError:
    """Return the error for a stored result that is not there."""
    return InputError(
        f"no {path}.",
        "the result of an earlier pipeline.",
        "Run the whole chain once (kedro run), or the pipeline that writes it, for the same --env and section.",
    )

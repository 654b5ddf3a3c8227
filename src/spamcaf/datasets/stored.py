"""Catalog entries that are one file, written atomically: JSON, CSV, PNG and HTML."""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kedro.io import AbstractDataset

from spamcaf.atomic import replacing
from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.names import GENE_IDS, LabelTable, Obs
from spamcaf.provenance import plain
from spamcaf.sections.panel import GENE
from spamcaf.sections.sites import SITE_ID

if TYPE_CHECKING:
    import pandas as pd
    from kedro_datasets._typing import HTMLPreview, ImagePreview, JSONPreview, TablePreview
    from matplotlib.figure import Figure

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


class AtomicJSONDataset(StoredDataset[Any, Any]):
    """Load and save a JSON record; NaN and infinity are stored as null, so that every reader accepts the file."""

    kind = "a whole JSON file"

    def _read(self, path: Path) -> Any:  # noqa: ANN401  whatever the file holds
        return json.loads(path.read_text(encoding="utf-8"))

    def _write(self, data: Any, path: Path) -> None:  # noqa: ANN401  whatever JSON can hold
        text = json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8", newline="\n")

    def preview(self) -> JSONPreview:
        """Show the record."""
        return json.dumps(self.load())  # type: ignore[return-value]


PREVIEW_ROWS = 10

IDS = (*LabelTable, Obs.PARENT, Obs.LIBRARY, SITE_ID, GENE, GENE_IDS, "gene_id", "symbol")
"""Columns that are read as text: a spot may be called 0001, a gene 1e3."""
EXACT_BY_DEFAULT = (3, 1)
"""From this version pandas reads numbers to the last digit, and asks not to be asked for it."""


class CSVDataset(StoredDataset["pd.DataFrame", "pd.DataFrame"]):
    """Load and save a table as CSV, without its index; `load_args` and `save_args` go to pandas."""

    kind = "a whole CSV table"

    def __init__(
        self,
        *,
        filepath: str,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._load_args = load_args or {}
        self._save_args = {"index": False, **(save_args or {})}

    def _read(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        # only an empty cell is a missing value: "NA" and "NAN" are gene symbols
        reading = {"keep_default_na": False, "na_values": [""], "dtype": {str(name): str for name in IDS}}
        version = tuple(int(part) for part in pd.__version__.split(".")[:2])
        exact = {} if version >= EXACT_BY_DEFAULT else {"float_precision": "round_trip"}
        return pd.read_csv(path, **{**reading, **exact, **self._load_args})

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_csv(path, **self._save_args)

    def preview(self) -> TablePreview:
        """Show the first rows."""
        head = self.load().head(PREVIEW_ROWS).astype(object)
        return head.where(head.notna(), None).to_dict(orient="split")  # type: ignore[return-value]


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"


class FigureDataset(StoredDataset["Figure", bytes]):
    """Save a figure as PNG; load the PNG's bytes, which a page can embed. `save_args` go to `Figure.savefig`.

    The same figure gives the same bytes.
    """

    kind = "a whole PNG picture"

    def __init__(
        self, *, filepath: str, save_args: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._save_args = {"dpi": 130, "facecolor": "white", **(save_args or {})}

    def _read(self, path: Path) -> bytes:
        picture = path.read_bytes()
        if not (picture.startswith(PNG_SIGNATURE) and picture.endswith(PNG_END)):
            raise ValueError("its first or last bytes are not those of a PNG")
        return picture

    def _write(self, data: Figure, path: Path) -> None:
        data.savefig(path, format="png", metadata={"Software": None}, **self._save_args)

    def preview(self) -> ImagePreview:
        """Show the picture."""
        return base64.b64encode(self.load()).decode("ascii")  # type: ignore[return-value]


class HTMLDataset(StoredDataset[str, str]):
    """Load and save an HTML page as UTF-8 text."""

    kind = "a page of UTF-8 text"

    def _read(self, path: Path) -> str:
        return path.read_text(encoding="utf-8")

    def _write(self, data: str, path: Path) -> None:
        path.write_text(data, encoding="utf-8", newline="\n")

    def preview(self) -> HTMLPreview:
        """Show the page."""
        return self.load()  # type: ignore[return-value]

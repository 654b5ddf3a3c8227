"""Records in JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.base import StoredDataset
from spamcaf.provenance import plain

if TYPE_CHECKING:
    from kedro_datasets._typing import JSONPreview


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

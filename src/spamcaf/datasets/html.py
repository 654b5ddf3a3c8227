"""HTML pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.base import StoredDataset

if TYPE_CHECKING:
    from kedro_datasets._typing import HTMLPreview


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

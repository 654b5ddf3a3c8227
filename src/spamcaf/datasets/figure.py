"""Matplotlib figures as PNG pictures."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.base import StoredDataset

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview
    from matplotlib.figure import Figure

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

"""AnnData in h5ad files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.stored import StoredDataset
from spamcaf.readers.files import refuse_foreign_content

if TYPE_CHECKING:
    from anndata import AnnData
    from kedro_datasets._typing import TablePreview

PREVIEW_ROWS = 10


class AnnDataDataset(StoredDataset["AnnData", "AnnData"]):
    """Load and save an AnnData as h5ad; `save_args` go to `AnnData.write_h5ad`."""

    kind = "a whole h5ad file"

    def __init__(
        self, *, filepath: str, save_args: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._save_args = {"compression": "gzip", **(save_args or {})}

    def _read(self, path: Path) -> AnnData:
        import anndata

        refuse_foreign_content(path)
        return anndata.read_h5ad(path)

    def _write(self, data: AnnData, path: Path) -> None:
        data.write_h5ad(path, **self._save_args)

    def preview(self) -> TablePreview:
        """Show the first spots and what is known of each."""
        head = self.load().obs.head(PREVIEW_ROWS)
        return head.reset_index(names="id").astype(str).to_dict(orient="split")  # type: ignore[return-value]

"""Tables in CSV files; ids and names in them are text, also where they look like numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.base import StoredDataset
from spamcaf.names import GENE_IDS, LabelTable, Obs
from spamcaf.sections.panel import GENE
from spamcaf.sections.sites import SITE_ID

if TYPE_CHECKING:
    import pandas as pd
    from kedro_datasets._typing import TablePreview

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

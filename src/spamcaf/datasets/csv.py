"""Tables in CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.base import StoredDataset

if TYPE_CHECKING:
    import pandas as pd
    from kedro_datasets._typing import TablePreview

PREVIEW_ROWS = 10

# only an empty cell is a missing value: "NA" and "NAN" are gene symbols; numbers come back to the last digit
READING = {"keep_default_na": False, "na_values": [""], "float_precision": "round_trip"}


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
        self._load_args = {**READING, **(load_args or {})}
        self._save_args = {"index": False, **(save_args or {})}

    def _read(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        return pd.read_csv(path, **self._load_args)

    def _write(self, data: pd.DataFrame, path: Path) -> None:
        data.to_csv(path, **self._save_args)

    def preview(self) -> TablePreview:
        """Show the first rows."""
        head = self.load().head(PREVIEW_ROWS).astype(object)
        return head.where(head.notna(), None).to_dict(orient="split")  # type: ignore[return-value]

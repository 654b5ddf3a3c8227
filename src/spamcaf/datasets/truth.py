"""The known truth between the spots: absent on real sections."""

from __future__ import annotations

from typing import Any

from kedro.io import AbstractDataset, DatasetError


class NoTruthDataset(AbstractDataset[None, None]):
    """Load None: nobody measured this section between its spots, so super-resolution is not scored."""

    def __init__(self, *, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata

    def load(self) -> None:
        return None

    def save(self, data: None) -> None:
        raise DatasetError("There is no truth to save.")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}

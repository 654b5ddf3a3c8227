"""SpatialData in Zarr folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.stored import StoredDataset

if TYPE_CHECKING:
    from spatialdata import SpatialData

WRITERS = 4
"""Pieces of an image computed at once: what bounds the memory of a save on machines with many cores."""


class SpatialDataDataset(StoredDataset["SpatialData", "SpatialData"]):
    """Save a SpatialData as a Zarr folder; load it lazily, its images staying on disk until they are looked at."""

    kind = "a whole SpatialData folder"

    def _read(self, path: Path) -> SpatialData:
        from spatialdata import SpatialData

        return SpatialData.read(path)

    def _write(self, data: SpatialData, path: Path) -> None:
        import anndata
        import dask

        backing = data.path
        workers = dask.config.set(scheduler="threads", num_workers=WRITERS)
        # left open, anndata warns once per array that its default will change
        sharding = anndata.settings.override(auto_shard_zarr_v3=False)
        try:
            with workers, sharding:
                data.write(path)
        finally:
            # writing makes the object refer to `path`, which is about to move
            data.path = backing

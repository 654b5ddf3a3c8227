"""A section in a SpatialData store: a table of counts, the shapes of its spots, and the image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SPATIAL, ScaleFactor, SectionField
from spamcaf.readers import spatialdata_store
from spamcaf.readers.anndata_library import as_coordinates, refuse_prediction, spot_columns
from spamcaf.readers.anndata_table import readable, table_of
from spamcaf.readers.files import as_texts
from spamcaf.readers.spatialdata_store import is_store, outlines_of, read_store, slide_of, thumbnails_of, to_pixels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from spamcaf.histology.slide import Slide
    from spamcaf.readers.files import SectionQuery

logger = logging.getLogger(__name__)

SUFFIX = ".zarr"
EXPECTED = "a SpatialData with a table that annotates shapes"


@dataclass(frozen=True)
class SpatialDataReader:
    """One section in the SpatialData store at `path`, or one region of several in it."""

    path: Path
    query: SectionQuery
    kind: str = "SpatialData"

    def read(self) -> AnnData:
        """Return the raw section; see `SectionReader`. Raises InputError.

        The spots' centres are the shapes that the table annotates, joined by id, in pixels of the full-resolution
        image of the store. Where an image of its own was named, they are in the shapes' own coordinates.
        """
        data = read_store(self.path)
        with readable(self.path, EXPECTED):
            return self._section(data)

    def open_slide(self) -> Slide:
        """Return the image that was named, else the full-resolution image of the store; see `SectionReader`."""
        if self.query.image is not None:
            from spamcaf.slides.open import open_slide

            return open_slide(self.query.image)
        data = read_store(self.path)
        with readable(self.path, EXPECTED):
            _, table = spatialdata_store.choose_table(data, self.query)
            refuse_prediction(table.uns, self.path.name)
            region, _ = spatialdata_store.choose_region(data, table, self.query)
            return slide_of(data, spatialdata_store.choose_image(data, region, self.query.section), self.path)

    def _section(self, data: SpatialData) -> AnnData:
        from anndata import AnnData

        source, name = self.path.name, self.query.section
        table_name, table = spatialdata_store.choose_table(data, self.query)
        refuse_prediction(table.uns, source)
        region, rows = spatialdata_store.choose_region(data, table, self.query)
        shapes = data.shapes[region]
        matrix = self._to_pixels(data, region)
        place = _join(
            table.obs[rows][table.uns[spatialdata_store.ATTRIBUTES][spatialdata_store.INSTANCE_KEY]], shapes, source
        )
        outlines = outlines_of(shapes).mapped(matrix).at(place[place >= 0])
        counts = table_of(table).counts(source)
        kept = np.flatnonzero(rows)[place >= 0]
        spots = spot_columns(table.obs.iloc[kept], source)
        xy = as_coordinates(outlines.xy, source)
        section = AnnData(counts.values[kept], obs=spots, var=counts.var, obsm={SPATIAL: xy})
        section.uns[SECTION_METADATA] = {
            SectionField.NAME.value: name,
            SectionField.UNMATCHED.value: int((place < 0).sum()),
            SectionField.COUNTS.value: counts.origin,
            **outlines.facts(spots, spatialdata_store.bin_um(table_name, region)),
        }
        images, scales = thumbnails_of(data, region, matrix, source)
        factors = {ScaleFactor.SPOT.value: float(np.median(outlines.width)), **scales}
        section.uns[SPATIAL] = {name: {"images": images, "scalefactors": factors}}
        return section

    def _to_pixels(self, data: SpatialData, region: str) -> NDArray[np.float64]:
        if self.query.image is not None:
            logger.info("the image is %s: coordinates of %s are taken for its pixels", self.query.image, region)
            return np.eye(3)
        image = spatialdata_store.choose_image(data, region, self.query.section)
        return to_pixels(data.shapes[region], data.images[image], self.path.name)


def find(query: SectionQuery) -> SpatialDataReader | None:
    """Return the section in the store that was named, in `<section>.zarr`, or in the only store of the folder.

    Raises InputError when there are several.
    """
    path = query.root if is_store(query.root) else _find(query)
    if path is None:
        return None
    logger.info("section %s is read from %s", query.section, path)
    return SpatialDataReader(path, query)


def _find(query: SectionQuery) -> Path | None:
    for folder in query.folders:
        own = folder / f"{query.section}{SUFFIX}"
        if is_store(own):
            return own
        stores = [p for p in sorted(folder.glob(f"*{SUFFIX}")) if is_store(p)] if folder.is_dir() else []
        if len(stores) > 1:
            raise InputError(
                f"{len(stores)} SpatialData stores in {folder}: {', '.join(p.name for p in stores[:20])}.",
                f"one, or one named {own.name}.",
                "Name the section as its store is named: --params section=<name>.",
            )
        if stores:
            return stores[0]
    return None


def _join(ids: pd.Series, shapes: pd.DataFrame, source: str) -> NDArray[np.int64]:
    """Return each spot's row in `shapes`, -1 where it has none; raise InputError when none has, or ids repeat."""
    import pandas as pd

    index = pd.Index(as_texts(shapes.index))  # numbers in one may be the same numbers as text in the other
    if not index.is_unique:
        raise InputError(
            f"shape {index[index.duplicated()][0]} twice in {source}.", "each once.", "Write the store again."
        )
    place = index.get_indexer(as_texts(ids))
    if (place < 0).all():
        raise InputError(
            f"no spot in common in {source}: {ids.iloc[0]} in the table, {index[0]} in the shapes.",
            "the same instance ids.",
            "Set the table's instance ids to the shapes' index, and write the store again.",
        )
    return np.asarray(place, np.int64)

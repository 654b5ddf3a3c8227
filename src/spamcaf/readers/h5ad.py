"""A section in an h5ad file with spatial coordinates, and the image beside it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SPATIAL, SectionField
from spamcaf.readers.anndata_library import (
    choose_library,
    library_entry,
    refuse_prediction,
    scale_facts,
    spot_columns,
    stated_coordinates,
)
from spamcaf.readers.anndata_table import read_h5ad_table, readable
from spamcaf.readers.files import image_beside, refuse_foreign_content

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.slide import Slide
    from spamcaf.readers.files import SectionQuery

logger = logging.getLogger(__name__)

SUFFIX = ".h5ad"
EXPECTED = "an AnnData in a whole h5ad file"


@dataclass(frozen=True)
class H5adReader:
    """One section in the h5ad file at `path`, or one library of several in it."""

    path: Path
    query: SectionQuery
    kind: str = "h5ad"

    def read(self) -> AnnData:
        """Return the raw section; see `SectionReader`. Raises InputError."""
        from anndata import AnnData

        source, name = self.path.name, self.query.section
        with readable(self.path, EXPECTED):
            refuse_foreign_content(self.path)
            table = read_h5ad_table(self.path)
        refuse_prediction(table.uns, source)
        library = choose_library(table.obs, table.uns, name, source)
        spots = spot_columns(table.obs[library.rows], source)
        obsm = {key: value[library.rows] for key, value in table.obsm.items()}
        xy = stated_coordinates(table.obs[library.rows], obsm, source)
        counts = table.counts(source)
        values = counts.values if library.rows.all() else counts.values[np.flatnonzero(library.rows)]
        section = AnnData(values, obs=spots, var=counts.var, obsm={SPATIAL: xy})
        section.uns[SECTION_METADATA] = {
            SectionField.NAME.value: name,
            SectionField.UNMATCHED.value: 0,
            SectionField.COUNTS.value: counts.origin,
            **scale_facts(library.record, spots),
        }
        if library.record:
            section.uns[SPATIAL] = {name: library_entry(library.record, source)}
        return section

    def open_slide(self) -> Slide:
        """Return the image that was named, else the one that lies beside the file; see `SectionReader`."""
        from spamcaf.slides.open import open_slide

        if self.query.image is not None:
            return open_slide(self.query.image)
        is_only_file = len(_files(self.path.parent)) == 1
        return open_slide(image_beside(self.path, self.query.section, is_only_file))


def find(query: SectionQuery) -> H5adReader | None:
    """Return the section in `<section>.h5ad`, or in the only h5ad file of the folder, or in the file named.

    Raises InputError when there are several, or when the file is no h5ad by its content.
    """
    path = _find(query)
    if path is None:
        return None
    _require_h5ad(path)
    logger.info("section %s is read from %s", query.section, path)
    return H5adReader(path, query)


def _find(query: SectionQuery) -> Path | None:
    if query.root.is_file():
        return query.root if query.root.suffix.lower() == SUFFIX else None
    for folder in query.folders:
        own, files = folder / f"{query.section}{SUFFIX}", _files(folder)
        if own in files:
            return own
        if len(files) > 1:
            raise InputError(
                f"{len(files)} h5ad files in {folder}: {', '.join(p.name for p in files[:20])}.",
                f"one, or one named {own.name}.",
                "Name the section as its file is named: --params section=<name>.",
            )
        if files:
            return files[0]
    return None


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() == SUFFIX)


def _require_h5ad(path: Path) -> None:
    import h5py

    if not h5py.is_hdf5(path):
        raise InputError(f"{path}, which is no HDF5 file.", f"{EXPECTED}.", "Fetch or write the file again.")
    with readable(path, EXPECTED), h5py.File(path) as file:
        missing = [key for key in ("obs", "var") if key not in file]
    if missing:
        raise InputError(
            f"{path} without {' and '.join(missing)}.",
            f"{EXPECTED}.",
            "A 10x matrix alone has no coordinates: pass the Space Ranger folder, or write an AnnData with both.",
        )

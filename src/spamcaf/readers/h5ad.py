"""A section in an h5ad file with spatial coordinates, and the image beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse, vstack

from spamcaf.errors import InputError
from spamcaf.limits import require_regular
from spamcaf.names import PROVENANCE, SPATIAL, SectionField
from spamcaf.readers import anndata_parts as parts
from spamcaf.readers import files
from spamcaf.readers.files import SectionQuery, SectionReader, reading
from spamcaf.readers.hdf5 import refuse_hostile_hdf5, require_memory_for

if TYPE_CHECKING:
    from anndata import AnnData

SUFFIX = ".h5ad"
EXPECTED = "an AnnData in a whole h5ad file"
DENSE_BLOCK = 2**24  # values of a dense matrix held at once


class H5adReader(SectionReader):
    """One section in an h5ad file, or one library of several in it."""

    kind = "h5ad"

    def read(self) -> AnnData:
        """Return the raw section, see `SectionReader`."""
        with reading(self.path, EXPECTED):
            table = read_h5ad_table(self.path)
        return section_of(table, self.query.section)

    def image(self) -> Path:
        """Return the image that lies beside the file."""
        is_only_file = len(files.files_in(self.path.parent, SUFFIX, Path.is_file)) == 1
        return files.image_beside(self.path, self.query.section, is_only_file)


def section_of(table: parts.Table, name: str) -> AnnData:
    """Return the raw section that the parts of an AnnData hold, see `SectionReader.read`; `name` may be a library's."""
    source = table.source
    parts.refuse_prediction(table.uns, source)
    rows, record = parts.choose_library(table.obs, table.uns, name, source)
    obs = table.obs[rows]
    spots = parts.spot_columns(obs, source)
    xy = parts.stated_coordinates(obs, {key: value[rows] for key, value in table.obsm.items()}, source)
    counts = table.counts()
    values = counts.values if rows.all() else counts.values[np.flatnonzero(rows)]
    facts = {SectionField.NAME.value: name, SectionField.COUNTS.value: counts.origin}
    section = files.make_section(values, spots, counts.var, xy, facts | parts.scale_facts(record, spots))
    if record:
        section.uns[SPATIAL] = {name: parts.library_entry(record, source)}
    return section


def find(query: SectionQuery) -> H5adReader | None:
    """Return the section in an h5ad file, see `find_file`; raise InputError when it is none by its content."""
    path = files.find_file(query, SUFFIX, _is_called_so, "h5ad files")
    if path is None:
        return None
    require_regular(path)
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}, which is no HDF5 file.", f"{EXPECTED}.", "Fetch or write the file again.")
    with reading(path, EXPECTED), h5py.File(path) as file:
        missing = [key for key in ("obs", "var") if key not in file]
    if missing:
        raise InputError(
            f"{path} without {' and '.join(missing)}.",
            f"{EXPECTED}.",
            "A 10x matrix alone has no coordinates: pass the Space Ranger folder, or write an AnnData with both.",
        )
    return H5adReader(path, query)


def _is_called_so(path: Path) -> bool:
    """Tell whether there is something of the name that is no folder; a pipe or a device is refused by its kind."""
    return path.suffix.lower() == SUFFIX and path.exists() and not path.is_dir()


def read_h5ad_table(path: Path) -> parts.Table:
    """Return the parts of an h5ad file; matrices stay on disk until they are needed."""
    import anndata

    refuse_hostile_hdf5(path)
    with h5py.File(path) as file:
        if isinstance(file["obs"], h5py.Dataset) or "raw.X" in file:  # written before anndata 0.7
            require_memory_for(path, file)
            return parts.table_of(anndata.read_h5ad(path), path.name)
        obs, var = _read_frame(file, "obs"), _read_frame(file, "var")
        obsm = {key: _read(file, f"obsm/{key}") for key in parts.COORDINATE_KEYS if f"obsm/{key}" in file}
        if any(len(coordinates) != len(obs) for coordinates in obsm.values()):
            raise ValueError(f"coordinates of other than its {len(obs)} spots")
        raw_var = _read_frame(file, "raw/var") if "raw/X" in file and "raw/var" in file else None
        places = [("layers['counts']", "layers/counts", var), ("X", "X", var), ("raw.X", "raw/X", raw_var)]
        stored = [place for place in places if place[1] in file and place[2] is not None]
        matrices = [
            parts.Matrix(name, partial(_load_matrix, path, key, (len(obs), len(genes))), genes)
            for name, key, genes in stored
        ]
        return parts.Table(path.name, obs, obsm, _read_uns(file), tuple(matrices))


def _read(group: h5py.Group, key: str) -> Any:  # noqa: ANN401  an element of any kind
    from anndata.io import read_elem

    require_memory_for(Path(group.file.filename), group[key])
    return read_elem(group[key])


def _read_frame(file: h5py.File, key: str) -> pd.DataFrame:
    frame = _read(file, key)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{key} is no table")
    return frame


def _read_uns(file: h5py.File) -> dict[str, Any]:
    """Return what is used of `uns`: an image of full resolution may lie there, too, and is left on disk."""
    uns: dict[str, Any] = {key: _read(file, f"uns/{key}") for key in (parts.LOG1P, PROVENANCE) if f"uns/{key}" in file}
    libraries = file.get(f"uns/{SPATIAL}")
    for name, group in libraries.items() if isinstance(libraries, h5py.Group) else ():
        if isinstance(group, h5py.Group):
            record = {key: _read(group, key) for key in ("metadata", "scalefactors") if key in group}
            images = [key for key in parts.THUMBNAILS if f"images/{key}" in group]
            record["images"] = {key: _read(group, f"images/{key}") for key in images}
            uns.setdefault(SPATIAL, {})[name] = record
    return uns


def _load_matrix(path: Path, key: str, shape: tuple[int, int]) -> Any:  # noqa: ANN401  a matrix of any kind
    with reading(path, "a whole count matrix"), h5py.File(path) as file:
        element = file[key]
        values = _sparse(element, shape) if isinstance(element, h5py.Dataset) else _read(file, key)
        if not issparse(values):
            raise ValueError(f"{key} is no matrix")
        return values


def _sparse(dense: h5py.Dataset, shape: tuple[int, int]) -> csr_matrix:
    """Return a dense matrix as CSR, a block of rows at a time."""
    if dense.shape != shape:
        raise ValueError(f"{dense.shape} values for {shape[0]} spots and {shape[1]} genes")
    step = max(DENSE_BLOCK // max(dense.shape[1], 1), 1)
    blocks = [csr_matrix(dense[top : top + step]) for top in range(0, dense.shape[0], step)]
    return vstack(blocks, format="csr") if blocks else csr_matrix(dense.shape, dtype=dense.dtype)

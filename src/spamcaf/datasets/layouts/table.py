"""The parts of an AnnData that a section is made of, read without the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.layouts.counts import Counts, Matrix, choose_counts, warn_of_other_values
from spamcaf.datasets.layouts.genes import is_expression, name_genes
from spamcaf.datasets.layouts.library import THUMBNAILS
from spamcaf.datasets.layouts.spots import COORDINATE_KEYS
from spamcaf.errors import InputError, first_line, is_fault_of_ours
from spamcaf.names import PROVENANCE, SPATIAL

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

COUNTS_LAYER = "counts"
LOG1P = "log1p"
DENSE_BLOCK = 2**24
"""Values of a dense matrix held at once."""


@dataclass(frozen=True)
class Table:
    """Spots and genes of an AnnData, with the matrices that may hold raw counts in the order of trust."""

    obs: pd.DataFrame
    var: pd.DataFrame
    obsm: Mapping[str, Any]
    uns: Mapping[str, Any]
    matrices: tuple[Matrix, ...]

    def counts(self, source: str) -> Counts:
        """Return raw counts of genes that are named, see `choose_counts`, `name_genes`; raise InputError without."""
        log = self.uns.get(LOG1P, {})
        base = log.get("base") if isinstance(log, Mapping) else None
        found = choose_counts(self.matrices, len(self.obs), float(base) if isinstance(base, Real) else None, source)
        warn_of_other_values(found, source)
        genes = is_expression(found.var)
        values = found.values if genes.all() else found.values[:, np.flatnonzero(genes)]
        return Counts(values, name_genes(found.var[genes], source), found.origin)


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a reader raises at a damaged or hostile file into InputError; a fault of ours stays what it is."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # there is no end to the types that readers raise at broken content
        if is_fault_of_ours(error):
            raise
        text = first_line(error).rstrip(".")
        raise InputError(
            f"{path} cannot be read ({text}).", f"{expected}.", "Fetch or write the file again."
        ) from error


def table_of(data: AnnData) -> Table:
    """Return the parts of an AnnData in memory."""
    matrices = []
    if COUNTS_LAYER in data.layers:
        matrices.append(Matrix(f"layers['{COUNTS_LAYER}']", lambda: data.layers[COUNTS_LAYER], data.var))
    if data.X is not None:
        matrices.append(Matrix("X", lambda: data.X, data.var))
    if data.raw is not None:
        matrices.append(Matrix("raw.X", lambda: data.raw.X, data.raw.var))
    return Table(data.obs, data.var, data.obsm, data.uns, tuple(matrices))


def read_h5ad_table(path: Path) -> Table:
    """Return the parts of an h5ad file; matrices stay on disk until they are asked for."""
    import anndata
    import h5py

    with h5py.File(path) as file:
        if isinstance(file["obs"], h5py.Dataset) or "raw.X" in file:  # written before anndata 0.7
            return table_of(anndata.read_h5ad(path))
        obs, var = _read_frame(file, "obs"), _read_frame(file, "var")
        obsm = {key: _read(file, f"obsm/{key}") for key in COORDINATE_KEYS if f"obsm/{key}" in file}
        if any(len(places) != len(obs) for places in obsm.values()):
            raise ValueError(f"coordinates of other than its {len(obs)} spots")
        raw_var = _read_frame(file, "raw/var") if "raw/X" in file and "raw/var" in file else None
        where = [("layers['counts']", f"layers/{COUNTS_LAYER}", var), ("X", "X", var), ("raw.X", "raw/X", raw_var)]
        matrices = [
            Matrix(name, partial(_load, path, key), genes)
            for name, key, genes in where
            if genes is not None and key in file
        ]
        return Table(obs, var, obsm, _read_uns(file), tuple(matrices))


def _read_frame(file: h5py.File, key: str) -> pd.DataFrame:
    import pandas as pd

    frame = _read(file, key)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{key} is no table")
    return frame


def _read(file: h5py.File, key: str) -> Any:  # noqa: ANN401  an element of any kind
    from anndata.io import read_elem

    return read_elem(file[key])


def _read_uns(file: h5py.File) -> dict[str, Any]:
    """Return what is used of `uns`: a picture of full resolution may lie there, too, and is left on disk."""
    import h5py

    uns: dict[str, Any] = {key: _read(file, f"uns/{key}") for key in (LOG1P, PROVENANCE) if f"uns/{key}" in file}
    libraries = file.get(f"uns/{SPATIAL}")
    if not isinstance(libraries, h5py.Group):
        return uns
    uns[SPATIAL] = {}
    for name, library in libraries.items():
        if isinstance(library, h5py.Group):
            keys = ["metadata", "scalefactors"]
            record = {key: _read(library, key) for key in keys if key in library}
            record["images"] = {
                key: _read(library, f"images/{key}") for key in THUMBNAILS if f"images/{key}" in library
            }
            uns[SPATIAL][name] = record
    return uns


def _load(path: Path, key: str) -> Any:  # noqa: ANN401  a matrix of any kind
    import h5py
    from scipy.sparse import issparse

    with readable(path, "a whole count matrix"), h5py.File(path) as file:
        element = file[key]
        values = _sparse(element) if isinstance(element, h5py.Dataset) else _read(file, key)
        if not issparse(values):
            raise ValueError(f"{key} is no matrix")
        return values


def _sparse(dense: h5py.Dataset) -> csr_matrix:
    """Return a dense matrix as CSR, a block of rows at a time."""
    from scipy.sparse import csr_matrix, vstack

    if len(dense.shape) != 2:  # noqa: PLR2004  spots and genes
        raise ValueError(f"a matrix of {len(dense.shape)} dimensions")
    step = max(DENSE_BLOCK // max(dense.shape[1], 1), 1)
    blocks = [csr_matrix(dense[top : top + step]) for top in range(0, dense.shape[0], step)]
    return vstack(blocks, format="csr") if blocks else csr_matrix(dense.shape, dtype=dense.dtype)

"""Writing a simulated section as the `outs/` folder of Space Ranger 2, so that any Visium reader can open it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.atomic import replacing
from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SPATIAL, SpaceRanger

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.simulation.section import SimulatedTissue

IMAGE = "tissue_image.tif"
"""The full-resolution image; Space Ranger leaves it where the user had it, we put it into the folder."""
_TIFF_TILE = 256
_BIGTIFF_BYTES = 2**31


def require_free(folder: Path) -> None:
    """Raise InputError where there is something at `folder`."""
    if folder.exists():
        raise InputError(
            f"something at {folder}.",
            "a folder that does not exist yet: nothing is overwritten.",
            "Name another folder, or remove this one.",
        )


def write_space_ranger(tissue: SimulatedTissue, folder: Path) -> None:
    """Write counts, spots, scale factors and images into a new folder, whole or not at all.

    The image is written tile by tile, so that any size fits into memory.

    Parameters
    ----------
    tissue : what is written
    folder : must not exist

    Raises
    ------
    InputError : where `folder` exists
    """
    import tifffile
    from PIL import Image

    require_free(folder)
    section = tissue.section()
    ((name, library),) = section.uns[SPATIAL].items()
    with replacing(folder) as outs:
        spatial = outs / SpaceRanger.SPATIAL
        spatial.mkdir(parents=True)
        _write_matrix(section, name, outs / SpaceRanger.MATRIX_H5)
        tissue.positions.to_csv(spatial / SpaceRanger.POSITIONS)
        (spatial / SpaceRanger.SCALEFACTORS).write_text(json.dumps(library["scalefactors"]), encoding="utf-8")
        for key, file in (("hires", SpaceRanger.HIRES), ("lowres", SpaceRanger.LOWRES)):
            Image.fromarray(library["images"][key]).save(spatial / file)
        tifffile.imwrite(
            outs / IMAGE,
            _tiles(tissue),
            shape=tissue.image_shape,
            dtype=np.uint8,
            tile=(_TIFF_TILE, _TIFF_TILE),
            photometric="rgb",
            compression="adobe_deflate",
            bigtiff=int(np.prod(tissue.image_shape)) > _BIGTIFF_BYTES,
            resolution=(1e4 / tissue.settings.mpp,) * 2,
            resolutionunit="CENTIMETER",
            metadata=None,
        )


def _write_matrix(section: AnnData, library: str, path: Path) -> None:
    """Write counts in the 10x HDF5 layout, version 3 of the features table: gene x barcode, compressed by column."""
    import h5py

    def texts(values: object) -> NDArray[np.bytes_]:
        return np.asarray(values, dtype=np.bytes_)

    counts = section.X.tocsr()  # spot x gene by row = gene x spot by column
    n_genes = section.n_vars
    with h5py.File(path, "w") as file:
        file.attrs.update({"filetype": "matrix", "version": 2, "chemistry_description": "Simulated Visium"})
        file.attrs["library_ids"] = texts([library])
        file.attrs["original_gem_groups"] = np.array([1])
        matrix = file.create_group("matrix")
        matrix["barcodes"] = texts(section.obs_names)
        matrix["shape"] = np.array([n_genes, section.n_obs], dtype=np.int32)
        matrix.create_dataset("data", data=counts.data.astype(np.int32), compression="gzip")
        matrix.create_dataset("indices", data=counts.indices.astype(np.int64), compression="gzip")
        matrix["indptr"] = counts.indptr.astype(np.int64)
        features = matrix.create_group("features")
        features["_all_tag_keys"] = texts(["genome"])
        features["id"], features["name"] = texts(section.var[GENE_IDS]), texts(section.var_names)
        features["feature_type"] = texts(["Gene Expression"] * n_genes)
        features["genome"] = texts(["simulated"] * n_genes)


def _tiles(tissue: SimulatedTissue) -> Iterator[NDArray[np.uint8]]:
    """Yield the image tile by tile, row by row, from one strip at a time; the last ones are filled up with zeros."""
    for strip in tissue.strips(_TIFF_TILE):
        missing = -strip.shape[0] % _TIFF_TILE, -strip.shape[1] % _TIFF_TILE
        padded = np.pad(strip, ((0, missing[0]), (0, missing[1]), (0, 0)))
        for left in range(0, padded.shape[1], _TIFF_TILE):
            yield np.ascontiguousarray(padded[:, left : left + _TIFF_TILE])

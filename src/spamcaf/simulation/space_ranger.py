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
"""The full-resolution picture; Space Ranger leaves it where the user had it, we put it into the folder."""

GENOME = "simulated"
TIFF_TILE = 256
BIGTIFF_BYTES = 2**31


def write_space_ranger(tissue: SimulatedTissue, folder: Path) -> None:
    """Write the section's counts, spots, scale factors and pictures into the new `folder`, whole or not at all.

    Raises InputError where `folder` exists. Memory stays bounded however large the picture is.
    """
    if folder.exists():
        raise InputError(
            f"something at {folder}.",
            "a folder that does not exist yet: nothing is overwritten.",
            "Name another folder, or remove this one.",
        )
    section = tissue.section()
    (library,) = section.uns[SPATIAL]
    with replacing(folder) as outs:
        spatial = outs / SpaceRanger.SPATIAL
        spatial.mkdir(parents=True)
        _write_matrix(section, library, outs / SpaceRanger.MATRIX_H5)
        tissue.positions.to_csv(spatial / SpaceRanger.POSITIONS)
        factors = section.uns[SPATIAL][library]["scalefactors"]
        (spatial / SpaceRanger.SCALEFACTORS).write_text(json.dumps(factors), encoding="utf-8")
        _write_small_images(section.uns[SPATIAL][library]["images"], spatial)
        _write_picture(tissue, outs / IMAGE)


def _write_matrix(section: AnnData, library: str, path: Path) -> None:
    """Write counts in the 10x HDF5 layout, version 3 of the features table: gene x barcode, compressed by column."""
    import h5py

    counts = section.X.tocsr()  # spot x gene by row = gene x spot by column
    n_genes = section.n_vars
    with h5py.File(path, "w") as file:
        file.attrs.update({"filetype": "matrix", "version": 2, "chemistry_description": "Simulated Visium"})
        file.attrs["library_ids"] = _texts([library])
        file.attrs["original_gem_groups"] = np.array([1])
        matrix = file.create_group("matrix")
        matrix["barcodes"] = _texts(section.obs_names)
        matrix["shape"] = np.array([n_genes, section.n_obs], dtype=np.int32)
        matrix.create_dataset("data", data=counts.data.astype(np.int32), compression="gzip")
        matrix.create_dataset("indices", data=counts.indices.astype(np.int64), compression="gzip")
        matrix["indptr"] = counts.indptr.astype(np.int64)
        features = matrix.create_group("features")
        features["_all_tag_keys"] = _texts(["genome"])
        features["id"], features["name"] = _texts(section.var[GENE_IDS]), _texts(section.var_names)
        features["feature_type"] = _texts(["Gene Expression"] * n_genes)
        features["genome"] = _texts([GENOME] * n_genes)


def _texts(values: object) -> NDArray[np.bytes_]:
    return np.asarray(values, dtype=np.bytes_)


def _write_small_images(images: dict[str, NDArray[np.uint8]], spatial: Path) -> None:
    from PIL import Image

    for key, name in (("hires", SpaceRanger.HIRES), ("lowres", SpaceRanger.LOWRES)):
        Image.fromarray(images[key]).save(spatial / name)


def _write_picture(tissue: SimulatedTissue, path: Path) -> None:
    import tifffile

    shape = tissue.image_shape
    tifffile.imwrite(
        path,
        _tiles(tissue),
        shape=shape,
        dtype=np.uint8,
        tile=(TIFF_TILE, TIFF_TILE),
        photometric="rgb",
        compression="adobe_deflate",
        bigtiff=int(np.prod(shape)) > BIGTIFF_BYTES,
        resolution=(1e4 / tissue.settings.mpp,) * 2,
        resolutionunit="CENTIMETER",
        metadata=None,
    )


def _tiles(tissue: SimulatedTissue) -> Iterator[NDArray[np.uint8]]:
    """Yield the picture tile by tile, row by row, from one strip at a time; the last ones are filled up with zeros."""
    for strip in tissue.strips(TIFF_TILE):
        missing = -strip.shape[0] % TIFF_TILE, -strip.shape[1] % TIFF_TILE
        padded = np.pad(strip, ((0, missing[0]), (0, missing[1]), (0, 0)))
        for left in range(0, padded.shape[1], TIFF_TILE):
            yield np.ascontiguousarray(padded[:, left : left + TIFF_TILE])

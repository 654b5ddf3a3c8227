"""Predicted expression as an AnnData that squidpy, scanpy and spatialdata open."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, PROVENANCE, SECTION_METADATA, SPATIAL, Obs, ScaleFactor, SectionField
from spamcaf.parameters import GridSettings
from spamcaf.provenance import plain
from spamcaf.sections.sites import SITE_ID, X_PX, Y_PX

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    Array = NDArray[np.floating]
    Counts = NDArray[np.integer]

SCHEMA_VERSION = "1"
SCALE = "log1p of counts per 10 000"
SD = "sd"  # layer of the predictive standard deviation
PROGRAMS = "programs"  # obsm of log depth and program scores
DRAW = "draw_"  # layers of draws from the posterior begin so; their number follows, from 0

MEASURED, PREDICTED = "measured", "predicted"
_LONGEST_PX = {"hires": (ScaleFactor.HIRES, 2000), "lowres": (ScaleFactor.LOWRES, 600)}
"""Scale factor and greatest longer side of the two images of a Space Ranger folder."""


def library_of(section: AnnData) -> tuple[str, dict[str, Any]]:
    """Return name, images and scale factors of the first library in `uns["spatial"]`; empty ones where it has none."""
    libraries = section.uns.get(SPATIAL, {})
    return next(iter(libraries.items()), ("", {"images": {}, "scalefactors": {}}))


def named_layers(data: AnnData) -> dict[str, Any]:
    """Return the layers by name, without X, which anndata lists among them as None from 0.13 on."""
    return {str(name): layer for name, layer in data.layers.items() if name is not None}


def values_of(data: AnnData, gene: str, layer: str | None = None) -> NDArray[np.float64]:
    """Return a gene's values (spot or site,) in X or a layer."""
    values = (data.X if layer is None else data.layers[layer])[:, [data.var_names.get_loc(gene)]]
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, np.float64).ravel()


def as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image (row, column, 3 or 4) as RGB uint8; readers that use matplotlib give floats between 0 and 1."""
    rgb = image[..., :3]
    return rgb if rgb.dtype == np.uint8 else np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def build_prediction(
    mean: Array,
    sd: Array | None,
    genes: pd.DataFrame,
    sites: pd.DataFrame,
    n_px_padded: Counts,
    section: AnnData,
    thumbnail: NDArray[np.uint8],
    px_per_thumbnail_px: float,
    grid: GridSettings,
    provenance: dict[str, Any],
) -> AnnData:
    """Build the prediction as an AnnData of the output contract; ValueError where the arguments disagree.

    `obs["origin"]` is "predicted" everywhere, at the spots (sub_index 0) too; "measured" is a category so that measured
    spots can be joined on.

    Parameters
    ----------
    mean, sd : (site, gene) log1p of counts per 10 000, and its standard deviation, None where a model gives none
    genes, sites : a row per gene (index symbol, column gene_ids), and a row per site as `lay_grid` returns it
    n_px_padded : (site,) pixels of each site's window outside the image
    section : gives scale, name and, where it has them, the images; else they are made of `thumbnail`
    thumbnail : (row, column, 3) uint8, a pixel of which covers `px_per_thumbnail_px` full-resolution pixels
    grid : how the sites were laid, from which their diameter follows
    provenance : stored in `uns["spamcaf"]`
    """
    from anndata import AnnData

    _check(mean, sd, genes, sites, n_px_padded)
    library = library_id(section)
    prediction = AnnData(
        np.ascontiguousarray(mean, np.float32),
        obs=_obs(sites, n_px_padded, library),
        var=genes.set_axis(genes.index.astype(str).rename(None)),
        obsm={SPATIAL: sites[[X_PX, Y_PX]].to_numpy(np.float64)},
    )
    if sd is not None:
        prediction.layers[SD] = np.ascontiguousarray(sd, np.float32)
    prediction.uns[SPATIAL] = {library: _library_entry(section, thumbnail, px_per_thumbnail_px, grid)}
    record = {**provenance, "schema_version": SCHEMA_VERSION, "scale": SCALE}
    prediction.uns[PROVENANCE] = _without_text(record)
    if Obs.LABEL in section.obs:
        labels = section.obs[Obs.LABEL].reindex(prediction.obs[Obs.PARENT])
        prediction.obs[Obs.LABEL.value] = labels.to_numpy()
    return prediction


def _without_text(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as h5ad and Zarr hold it: nested, no JSON in texts, nothing that is None.

    A slash in a name, as of a reference that is given by its path, stands as %2F: to HDF5 it is a level of its own.
    """
    found: dict[str, Any] = {}
    for name, value in plain(dict(record)).items():
        known = value
        if isinstance(value, str) and value.startswith("{"):
            with suppress(ValueError):
                known = json.loads(value)
        if known is not None:
            found[name.replace("/", "%2F")] = _without_text(known) if isinstance(known, Mapping) else known
    return found


def library_id(section: AnnData) -> str:
    """Return the section's name with every character but letters, digits, `_`, `-` and `.` replaced by `_`."""
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", str(section.uns[SECTION_METADATA][SectionField.NAME]))
    return safe if re.match(r"[A-Za-z0-9]", safe) else f"section{safe}"


def _check(mean: Array, sd: Array | None, genes: pd.DataFrame, sites: pd.DataFrame, n_px_padded: Counts) -> None:
    expected = (len(sites), len(genes))
    if mean.shape != expected or (sd is not None and sd.shape != expected) or len(n_px_padded) != len(sites):
        raise ValueError(
            f"Found mean {mean.shape}, sd {None if sd is None else sd.shape} and {len(n_px_padded)} padding counts; "
            f"expected {expected}, a row per site and a column per gene; give all of them in the same order."
        )
    if not np.isfinite(mean).all() or (sd is not None and not np.isfinite(sd).all()):
        raise InputError(
            "NaN or infinity in the prediction.",
            "finite numbers, which follow from features and a model of usual size.",
            "Run feature_extraction and training again, or name another model. If it comes again, please report it.",
        )
    if GENE_IDS not in genes or not genes.index.is_unique or not sites[SITE_ID].is_unique:
        raise ValueError(
            f"Found a repeated gene or site, or no column {GENE_IDS}; expected unique ones with an id per gene; "
            "check the gene panel and the grid."
        )


def _obs(sites: pd.DataFrame, n_px_padded: Counts, library: str) -> pd.DataFrame:
    import pandas as pd

    # no booleans: squidpy fails on them
    columns = {
        Obs.PARENT: sites[Obs.PARENT].to_numpy(str).astype(object),
        Obs.SUB_INDEX: sites[Obs.SUB_INDEX].to_numpy(np.int64),
        Obs.IN_TISSUE: np.ones(len(sites), np.int64),
        Obs.ARRAY_ROW: sites[Obs.ARRAY_ROW].to_numpy(np.int64),
        Obs.ARRAY_COL: sites[Obs.ARRAY_COL].to_numpy(np.int64),
        Obs.LIBRARY: pd.Categorical([library] * len(sites)),
        Obs.ORIGIN: pd.Categorical([PREDICTED] * len(sites), categories=[MEASURED, PREDICTED]),
        Obs.PADDED: np.asarray(n_px_padded, np.int64),
    }
    index = pd.Index(sites[SITE_ID].to_numpy(str).astype(object))
    return pd.DataFrame({key.value: values for key, values in columns.items()}, index=index)


def _library_entry(
    section: AnnData, thumbnail: NDArray[np.uint8], px_per_thumbnail_px: float, grid: GridSettings
) -> dict[str, Any]:
    facts = section.uns[SECTION_METADATA]
    mpp, spot_um = float(facts[SectionField.MPP]), float(facts[SectionField.SPOT_UM])
    _, given = library_of(section)
    images, scales = _images(given, thumbnail, px_per_thumbnail_px)
    spot_px = spot_um / mpp
    # a lattice without fiducials has none to measure, but readers ask for the key
    fiducial_px = float(given.get("scalefactors", {}).get(ScaleFactor.FIDUCIAL, spot_px))
    pitch_um = float(facts[SectionField.PITCH_UM])
    if grid.pitch_um is None:
        site_px, laid = spot_px / grid.subdivide, {"subdivide": grid.subdivide}
        site_pitch_um = pitch_um / grid.subdivide
    else:
        site_px, laid, site_pitch_um = grid.pitch_um / mpp, {}, grid.pitch_um
    sizes = {ScaleFactor.SPOT.value: site_px, ScaleFactor.FIDUCIAL.value: fiducial_px}
    return {
        "images": images,
        "scalefactors": {**sizes, **scales},
        "metadata": {
            "mpp": mpp,
            "parent_spot_diameter_fullres": spot_px,
            "parent_spot_diameter_um": spot_um,
            "parent_pitch_um": pitch_um,
            "site_pitch_um": site_pitch_um,
            **laid,
        },
    }


def _images(
    given: dict[str, Any], thumbnail: NDArray[np.uint8], px_per_thumbnail_px: float
) -> tuple[dict[str, NDArray[np.uint8]], dict[str, float]]:
    """Return hires and lowres with their scale factors: the source's own, else the thumbnail, never enlarged."""
    from PIL import Image

    images, scales = {}, {}
    for name, (key, longest) in _LONGEST_PX.items():
        image, scale = given.get("images", {}).get(name), given.get("scalefactors", {}).get(key)
        if image is None or scale is None:
            shrinkage = min(1.0, longest / max(thumbnail.shape[:2]))
            rows, columns = (max(round(n * shrinkage), 1) for n in thumbnail.shape[:2])
            image = Image.fromarray(thumbnail).resize((columns, rows), Image.Resampling.BOX)
            scale = shrinkage / px_per_thumbnail_px
        images[name], scales[key.value] = as_uint8(np.asarray(image)), float(scale)
    return images, scales

"""Predictions for other tools: SpatialData, and GeoJSON for QuPath."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.names import SPATIAL, ScaleFactor
from spamcaf.reporting.figures import colour_limits
from spamcaf.reporting.prediction import SD, library_of, named_layers

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.array import Array
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from spamcaf.histology.slide import Slide

logger = logging.getLogger(__name__)

_N_CORNERS = 24
_DECIMALS_PX = 2
_DECIMALS_VALUE = 5
_CHUNK_PX = 1024
_SMALLEST_LEVEL_PX = 512  # the pyramid ends at the first level whose longer side is at most this
_REGION, _INSTANCE = "region", "instance_id"
_RGB = ["r", "g", "b"]


def no_polygons(n_sites: int, most: int) -> str | None:
    """Return the sentence that says why the GeoJSON is empty and what to open instead; None where it is not."""
    if n_sites <= most:
        return None
    return (
        f"The GeoJSON for QuPath holds no polygons: {n_sites} sites are more than report.max_polygons={most}, and "
        "would be slow to open. Open super_resolved.h5ad (scanpy, squidpy) or the SpatialData folder "
        "(napari-spatialdata) instead, or raise report.max_polygons: writing takes some 30 kB of memory per site."
    )


def to_geojson(
    prediction: AnnData, genes: list[str], most: int | None = None, image_px: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Convert a prediction to GeoJSON for QuPath: one detection per site, a circle of the site's diameter.

    Detections are coloured by the first gene, between its 1st and 99th percentile.

    Parameters
    ----------
    prediction : AnnData
        As `build_prediction` returns it.
    genes : list of str
        Genes whose values, and standard deviations where there are any, become measurements; ValueError for one that
        was not predicted.
    most : int, optional
        Of more sites there is none, and a member `note` that says what to open instead.
    image_px : (int, int), optional
        Width and height of the image: sites whose centre lies outside are left out, circles end at its edge.

    Returns
    -------
    dict
        A FeatureCollection in full-resolution pixels, (x, y). A value that is not finite is left out, which QuPath
        shows as missing.
    """
    missing = [gene for gene in genes if gene not in prediction.var_names]
    if missing:
        raise ValueError(
            f"Found no {', '.join(missing[:8])} among {prediction.n_vars} genes; expected genes of the panel; "
            "choose among the prediction's var_names."
        )
    if most is not None and (note := no_polygons(prediction.n_obs, most)) is not None:
        logger.warning("%s", note)
        return {"type": "FeatureCollection", "features": [], "note": note}
    diameter_px = float(library_of(prediction)[1]["scalefactors"][ScaleFactor.SPOT])
    if image_px is not None:
        xy = np.asarray(prediction.obsm[SPATIAL], float)
        prediction = prediction[((xy >= 0) & (xy < image_px)).all(axis=1)]
    rings = _rings(np.asarray(prediction.obsm[SPATIAL], float), diameter_px / 2)
    if image_px is not None:
        rings = np.clip(rings, 0, image_px)
    shown, names = prediction[:, genes], list(genes)
    values = np.asarray(shown.X, float)
    colours = _colours(values[:, 0])
    if SD in shown.layers:
        names += [f"{gene} {SD}" for gene in genes]
        values = np.hstack([values, np.asarray(shown.layers[SD], float)])
    sites = zip(prediction.obs_names, rings.tolist(), values.tolist(), colours, strict=True)
    features = [_feature(name, ring, dict(zip(names, row, strict=True)), colour) for name, ring, row, colour in sites]
    return {"type": "FeatureCollection", "features": features}


def _rings(xy_px: NDArray[np.float64], radius_px: float) -> NDArray[np.float64]:
    """Return (site, corner, 2): closed outer rings in the direction of RFC 7946."""
    angle = np.linspace(0, 2 * np.pi, _N_CORNERS, endpoint=False)
    circle = radius_px * np.column_stack([np.cos(angle), np.sin(angle)])
    rings = np.round(xy_px[:, None, :] + circle, _DECIMALS_PX)
    return np.concatenate([rings, rings[:, :1]], axis=1)


def _colours(values: NDArray[np.float64]) -> list[list[int]]:
    """Return (red, green, blue) of 0 to 255 of each value."""
    from matplotlib import colormaps

    low, high = colour_limits(values[np.isfinite(values)]) if np.isfinite(values).any() else (0.0, 1.0)
    colours: list[list[int]] = colormaps["viridis"]((values - low) / (high - low), bytes=True)[:, :3].tolist()
    return colours


def _feature(name: str, ring: list[list[float]], values: dict[str, float], colour: list[int]) -> dict[str, Any]:
    measurements = {gene: round(value, _DECIMALS_VALUE) for gene, value in values.items() if np.isfinite(value)}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "detection", "name": name, "color": colour, "measurements": measurements},
    }


def to_spatialdata(super_resolved: AnnData, section: AnnData, slide: Slide | None) -> SpatialData:
    """Convert a prediction to SpatialData: images, shapes and the table of predicted expression.

    Parameters
    ----------
    super_resolved : AnnData
        As `build_prediction` returns it.
    section : AnnData
        The measured spots.
    slide : Slide or None
        The full-resolution image; it is read only when the result is written or displayed, chunk by chunk. None: the
        result has no images.

    Returns
    -------
    SpatialData
        The coordinate system `<lib>` is full-resolution pixels, `<lib>_downscaled_hires` pixels of the hires image.
    """
    from spatialdata import SpatialData
    from spatialdata.models import TableModel
    from spatialdata.transformations import Identity, Scale

    lib, entry = library_of(super_resolved)
    scale = float(entry["scalefactors"][ScaleFactor.HIRES])
    hires, subspots = f"{lib}_downscaled_hires", f"{lib}_subspots"
    of_full = {lib: Identity(), hires: Scale([scale, scale], axes=("x", "y"))}
    of_hires = {lib: Scale([1 / scale, 1 / scale], axes=("x", "y")), hires: Identity()}
    images = {}
    if slide is not None:
        pyramid = [2] * max(int(np.ceil(np.log2(max(slide.shape) / _SMALLEST_LEVEL_PX))), 1)
        images[f"{lib}_full_image"] = _image(_lazy_image(slide), of_full, pyramid)
        images[f"{lib}_hires_image"] = _image(np.moveaxis(entry["images"]["hires"], -1, 0), of_hires)
    return SpatialData(
        images=images,
        shapes={
            f"{lib}_spots": _circles(section, entry["metadata"]["parent_spot_diameter_fullres"], of_full),
            subspots: _circles(super_resolved, entry["scalefactors"][ScaleFactor.SPOT], of_full),
        },
        tables={"table": TableModel.parse(_table(super_resolved, subspots), subspots, _REGION, _INSTANCE)},
    )


def _image(pixels: Array | NDArray[np.uint8], transforms: dict[str, Any], pyramid: list[int] | None = None) -> Any:  # noqa: ANN401
    from spatialdata.models import Image2DModel

    chunks = (len(_RGB), _CHUNK_PX, _CHUNK_PX)
    return Image2DModel.parse(
        pixels, dims=("c", "y", "x"), c_coords=_RGB, scale_factors=pyramid, chunks=chunks, transformations=transforms
    )


def _circles(sites: AnnData, diameter_px: float, transforms: dict[str, Any]) -> GeoDataFrame:
    from spatialdata.models import ShapesModel

    xy_px, names = np.asarray(sites.obsm[SPATIAL], np.float64), sites.obs_names.to_numpy()
    return ShapesModel.parse(xy_px, geometry=0, radius=float(diameter_px) / 2, index=names, transformations=transforms)


def _lazy_image(slide: Slide) -> Array:
    """Return the slide as a dask array, (channel, row, column) uint8, in square chunks."""
    import dask.array as da
    from dask.array.core import normalize_chunks

    height, width = slide.shape

    def read(block_info: dict[None, dict[str, Any]]) -> NDArray[np.uint8]:
        top, bottom = block_info[None]["array-location"][0]
        return slide.read(0, top, width, bottom - top)[0]

    # Strips of whole rows: a striped TIFF would otherwise decode every strip once per chunk beside it.
    chunks = (*normalize_chunks((_CHUNK_PX,), (height,)), (width,), (len(_RGB),))
    meta, name = np.empty((0, 0, 0), np.uint8), f"slide-{slide.name}-{slide.fingerprint}"
    strips = da.map_blocks(read, chunks=chunks, dtype=np.uint8, meta=meta, name=name)
    return da.moveaxis(strips, -1, 0).rechunk((len(_RGB), _CHUNK_PX, _CHUNK_PX))


def _table(super_resolved: AnnData, region: str) -> AnnData:
    """Return the prediction with the two columns that join it to its shapes; large arrays are shared, not copied."""
    import pandas as pd
    from anndata import AnnData

    joining = {_REGION: pd.Categorical([region] * super_resolved.n_obs), _INSTANCE: super_resolved.obs_names.to_numpy()}
    return AnnData(
        super_resolved.X,
        obs=super_resolved.obs.assign(**joining),
        var=super_resolved.var,
        obsm=dict(super_resolved.obsm),
        layers=named_layers(super_resolved),
        uns=dict(super_resolved.uns),
    )

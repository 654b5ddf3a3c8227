"""Predictions for other tools: SpatialData, and GeoJSON for QuPath."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.names import SPATIAL, ScaleFactor

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.array import Array
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from spamcaf.histology.slide import Slide

N_CORNERS = 24
DECIMALS_PX = 2
DECIMALS_VALUE = 5


def to_geojson(prediction: AnnData, genes: list[str]) -> dict[str, Any]:
    """Return a FeatureCollection with one detection per site: a circle of the site's diameter, `genes` as measurements.

    Coordinates are full-resolution pixels, (x, y). A value that is not finite is left out, which QuPath shows as
    missing. Raises ValueError for a gene that was not predicted.
    """
    missing = [gene for gene in genes if gene not in prediction.var_names]
    if missing:
        raise ValueError(
            f"Found no {', '.join(missing[:8])} among {prediction.n_vars} genes; expected genes of the panel; "
            "choose among the prediction's var_names."
        )
    library = next(iter(prediction.uns[SPATIAL].values()))
    diameter_px = float(library["scalefactors"][ScaleFactor.SPOT])
    rings = _rings(np.asarray(prediction.obsm[SPATIAL], float), diameter_px / 2)
    values = np.asarray(prediction[:, genes].X, float)
    return {
        "type": "FeatureCollection",
        "features": [
            _feature(name, ring, dict(zip(genes, row, strict=True)))
            for name, ring, row in zip(prediction.obs_names, rings.tolist(), values.tolist(), strict=True)
        ],
    }


def _rings(xy_px: NDArray[np.float64], radius_px: float) -> NDArray[np.float64]:
    """Return (site, corner, 2): closed rings that turn as RFC 7946 asks of an outer ring."""
    angle = np.linspace(0, 2 * np.pi, N_CORNERS, endpoint=False)
    circle = radius_px * np.column_stack([np.cos(angle), np.sin(angle)])
    rings = np.round(xy_px[:, None, :] + circle, DECIMALS_PX)
    return np.concatenate([rings, rings[:, :1]], axis=1)


def _feature(name: str, ring: list[list[float]], values: dict[str, float]) -> dict[str, Any]:
    measurements = {gene: round(value, DECIMALS_VALUE) for gene, value in values.items() if np.isfinite(value)}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "detection", "name": name, "measurements": measurements},
    }


CHUNK_PX = 1024
SMALLEST_LEVEL_PX = 512
"""The pyramid ends at the first level whose longer side is at most this."""

REGION, INSTANCE = "region", "instance_id"
RGB = ["r", "g", "b"]


def to_spatialdata(super_resolved: AnnData, section: AnnData, slide: Slide) -> SpatialData:
    """Return images, shapes and the table of predicted expression, by the output contract.

    `super_resolved` is a prediction (see `build_prediction`), `section` holds the measured spots and `slide` the
    full-resolution image, which is read only when the result is written or looked at, piece by piece. The coordinate
    system `<lib>` is full-resolution pixels, `<lib>_downscaled_hires` pixels of the hires picture.
    """
    from spatialdata import SpatialData
    from spatialdata.models import TableModel
    from spatialdata.transformations import Identity, Scale

    lib, entry = next(iter(super_resolved.uns[SPATIAL].items()))
    scale = float(entry["scalefactors"][ScaleFactor.HIRES])
    full, hires = lib, f"{lib}_downscaled_hires"
    of_full = {full: Identity(), hires: Scale([scale, scale], axes=("x", "y"))}
    of_hires = {full: Scale([1 / scale, 1 / scale], axes=("x", "y")), hires: Identity()}
    subspots = f"{lib}_subspots"
    return SpatialData(
        images={
            f"{lib}_full_image": _image(lazy_image(slide), of_full, _pyramid(slide.shape)),
            f"{lib}_hires_image": _image(np.moveaxis(entry["images"]["hires"], -1, 0), of_hires),
        },
        shapes={
            f"{lib}_spots": _circles(section, entry["metadata"]["parent_spot_diameter_fullres"], of_full),
            subspots: _circles(super_resolved, entry["scalefactors"][ScaleFactor.SPOT], of_full),
        },
        tables={"table": TableModel.parse(_table(super_resolved, subspots), subspots, REGION, INSTANCE)},
    )


def _image(pixels: Array | NDArray[np.uint8], transforms: dict[str, Any], pyramid: list[int] | None = None) -> Any:  # noqa: ANN401
    from spatialdata.models import Image2DModel

    chunks = (len(RGB), CHUNK_PX, CHUNK_PX)
    return Image2DModel.parse(
        pixels, dims=("c", "y", "x"), c_coords=RGB, scale_factors=pyramid, chunks=chunks, transformations=transforms
    )


def _circles(places: AnnData, diameter_px: float, transforms: dict[str, Any]) -> GeoDataFrame:
    from spatialdata.models import ShapesModel

    xy_px, names = np.asarray(places.obsm[SPATIAL], np.float64), places.obs_names.to_numpy()
    radius_px = float(diameter_px) / 2
    return ShapesModel.parse(xy_px, geometry=0, radius=radius_px, index=names, transformations=transforms)


def lazy_image(slide: Slide) -> Array:
    """Return the slide as a dask array, (channel, row, column) uint8, in square chunks.

    It is read in strips of whole rows: a striped TIFF would otherwise decode every strip once per chunk beside it.
    """
    import dask.array as da

    strips = da.from_array(
        _Rows(slide),
        chunks=(CHUNK_PX, -1, -1),
        name=f"slide-{slide.name}-{slide.fingerprint}",
        meta=np.empty((0, 0, 0), np.uint8),
    )
    return da.moveaxis(strips, -1, 0).rechunk((len(RGB), CHUNK_PX, CHUNK_PX))


@dataclass(frozen=True)
class _Rows:
    """What dask asks of an array: its form, and slices of it."""

    slide: Slide
    ndim: int = 3

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.slide.shape, len(RGB))

    def __getitem__(self, window: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
        rows, columns, channels = (part.indices(n) for part, n in zip(window, self.shape, strict=True))
        pixels, _ = self.slide.read(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        return pixels[..., slice(*channels)]


def _pyramid(shape: tuple[int, int]) -> list[int]:
    n_levels = int(np.ceil(np.log2(max(max(shape) / SMALLEST_LEVEL_PX, 1))))
    return [2] * max(n_levels, 1)


def _table(super_resolved: AnnData, region: str) -> AnnData:
    """Return the prediction with the two columns that join it to its shapes; large arrays are shared, not copied."""
    import pandas as pd
    from anndata import AnnData

    obs = super_resolved.obs.assign(
        **{REGION: pd.Categorical([region] * super_resolved.n_obs), INSTANCE: super_resolved.obs_names.to_numpy()}
    )
    return AnnData(
        super_resolved.X,
        obs=obs,
        var=super_resolved.var,
        obsm=dict(super_resolved.obsm),
        layers={name: layer for name, layer in super_resolved.layers.items() if name},  # anndata 0.13 lists X as None
        uns=dict(super_resolved.uns),
    )

"""Sub-spots as GeoJSON that QuPath opens on the full-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.names import SPATIAL, ScaleFactor

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

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

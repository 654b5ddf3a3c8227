"""Where the spots of a SpatialData lie in the pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.layouts.library import bin_facts, is_visium_array, visium_facts
from spamcaf.errors import InputError
from spamcaf.names import ScaleFactor

if TYPE_CHECKING:
    import pandas as pd
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

AXES = ("x", "y")
MAX_DISAGREEMENT_PX = 1.0


@dataclass(frozen=True)
class Outlines:
    """Centre (x, y) and width of every spot: the diameter of a circle, the side of a square."""

    xy: NDArray[np.float64]
    width: NDArray[np.float64]
    are_circles: bool

    def mapped(self, matrix: NDArray[np.float64]) -> Outlines:
        """Return the spots after the affine map `matrix` (3, 3)."""
        xy = self.xy @ matrix[:2, :2].T + matrix[:2, 2]
        return Outlines(xy, self.width * scale_of(matrix), self.are_circles)

    def at(self, rows: NDArray[np.int64]) -> Outlines:
        """Return the spots in these rows."""
        return Outlines(self.xy[rows], self.width[rows], self.are_circles)

    def facts(self, spots: pd.DataFrame, bin_um: int | None) -> dict[str, Any]:
        """Return lattice, pitch, spot diameter, and micrometres per pixel of square bins, where they are certain.

        `spots` has the columns of `spot_columns`; `bin_um` is the size that the names of a Visium HD store say. How
        wide the circles of a Visium section are is told in pixels: tools draw them 55 to 70 um wide.
        """
        width_px = float(np.median(self.width))
        if bin_um is not None:
            return bin_facts(float(bin_um), bin_um / width_px)
        if not self.are_circles or not is_visium_array(spots):
            return {}
        return visium_facts({ScaleFactor.SPOT.value: width_px})


def outlines_of(shapes: GeoDataFrame) -> Outlines:
    """Return centres and widths of circles or polygons, in the shapes' own coordinates."""
    centres = shapes.geometry.centroid
    xy = np.column_stack([centres.x, centres.y]).astype(np.float64)
    if "radius" in shapes:
        return Outlines(xy, 2 * shapes["radius"].to_numpy(np.float64), True)
    return Outlines(xy, np.sqrt(shapes.geometry.area.to_numpy(np.float64)), False)


def scale_of(matrix: NDArray[np.float64]) -> float:
    """Return by how much an affine map (3, 3) stretches lengths."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def to_pixels(shapes: GeoDataFrame, image: Any, source: str) -> NDArray[np.float64]:  # noqa: ANN401  an image element
    """Return the affine map (3, 3) from the shapes' coordinates to (x, y) pixels of the image's full resolution.

    Raises InputError when they share no coordinate system, or when two that they share disagree.
    """
    of_shapes, of_image = _affines(shapes), _affines(image)
    shared = [name for name in of_shapes if name in of_image]
    if not shared:
        raise InputError(
            f"spots in coordinate systems {', '.join(of_shapes)} and an image in {', '.join(of_image)} in {source}.",
            "one that both have.",
            "Set the transformation of the image to the spots' coordinate system, and write the store again.",
        )
    try:
        maps = [np.linalg.inv(of_image[name]) @ of_shapes[name] for name in shared]
    except np.linalg.LinAlgError as error:
        raise InputError(f"a transformation without inverse in {source}.", "one with.", "Correct it.") from error
    low, high = (extreme(outlines_of(shapes).xy, axis=0) for extreme in (np.nanmin, np.nanmax))
    corners = np.array([[low[0], low[1], 1], [low[0], high[1], 1], [high[0], low[1], 1], [high[0], high[1], 1]])
    apart = max(float(np.abs(corners @ (m - maps[0]).T).max()) for m in maps)
    if not apart <= MAX_DISAGREEMENT_PX:
        raise InputError(
            f"coordinate systems {', '.join(shared)} of {source} that place spots {apart:.0f} px apart.",
            "the same place by each.",
            "Correct or remove the wrong transformation, and write the store again.",
        )
    return maps[0]


def _affines(element: Any) -> dict[str, NDArray[np.float64]]:  # noqa: ANN401  shapes or an image
    from spatialdata.transformations import get_transformation

    transformations = get_transformation(element, get_all=True)
    return {name: t.to_affine_matrix(input_axes=AXES, output_axes=AXES) for name, t in transformations.items()}

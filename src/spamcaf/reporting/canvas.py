"""Drawing on tissue: a grey picture behind, discs of true size, a scale bar. All in full-resolution pixels, y down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import EllipseCollection
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray

from spamcaf.names import SPATIAL, ScaleFactor

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_LUMA = (0.299, 0.587, 0.114)
_FADE = 0.55
_BAR_SHARE = 0.3
_MARGIN = 0.04
_MICROMETRES_PER_MM = 1000


def library(section: AnnData) -> dict[str, dict[str, Any]]:
    """Return the images and scale factors of an AnnData's only library; an empty one where it has none."""
    libraries = section.uns.get(SPATIAL, {})
    return next(iter(libraries.values())) if libraries else {"images": {}, "scalefactors": {}}


def draw_tissue(axes: Axes, section: AnnData) -> None:
    """Draw the section's hires picture, grey and faded, where it has one."""
    entry = library(section)
    picture, scale = entry["images"].get("hires"), entry["scalefactors"].get(ScaleFactor.HIRES)
    if picture is None or scale is None:
        return
    rgb = np.asarray(picture)[..., :3].astype(np.float32)
    grey = rgb @ np.asarray(_LUMA, dtype=np.float32) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    height, width = grey.shape
    extent = (0, width / float(scale), height / float(scale), 0)
    axes.imshow(_FADE + (1 - _FADE) * grey, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")


def draw_discs(
    axes: Axes, section: AnnData, values: NDArray[np.floating], limits: tuple[float, float]
) -> EllipseCollection:
    """Draw each place of `section` as a disc of its true diameter, coloured by `values` (place,) between `limits`."""
    xy_px = np.asarray(section.obsm[SPATIAL], dtype=float)
    diameter = library(section)["scalefactors"].get(ScaleFactor.SPOT)
    diameter_px = float(diameter) if diameter else 0.65 * _nearest_px(xy_px)  # 65 um spots, 100 um apart
    discs = EllipseCollection(
        np.full(len(xy_px), diameter_px),
        np.full(len(xy_px), diameter_px),
        np.zeros(len(xy_px)),
        units="xy",
        offsets=xy_px,
        offset_transform=axes.transData,
        array=np.asarray(values, dtype=float),
        cmap="viridis",
        clim=limits,
        linewidths=0,
    )
    axes.add_collection(discs)
    return discs


def frame(axes: Axes, xy_px: NDArray[np.floating]) -> None:
    """Show the places `xy_px` (place, 2) with a margin: equal aspect, y down, no ticks."""
    low, high = xy_px.min(axis=0), xy_px.max(axis=0)
    margin = _MARGIN * (high - low).max() + 0.5 * _nearest_px(xy_px)
    axes.set_aspect("equal")
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(high[1] + margin, low[1] - margin)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_scale_bar(axes: Axes, mpp: float) -> None:
    """Add a bar of a round length, about a quarter of the axes' width; `mpp` is micrometres per pixel."""
    left, right = axes.get_xlim()
    room_um = _BAR_SHARE * (right - left) * mpp
    power = 10.0 ** np.floor(np.log10(room_um))
    length_um = power * max(step for step in (1, 2, 5) if step * power <= room_um)
    millimetres = length_um >= _MICROMETRES_PER_MM
    label = f"{length_um / _MICROMETRES_PER_MM:g} mm" if millimetres else f"{length_um:g} µm"
    bar = AnchoredSizeBar(
        axes.transData,
        length_um / mpp,
        label,
        "lower right",
        pad=0.3,
        frameon=True,
        size_vertical=0.008 * (right - left),
        fontproperties={"size": 8},
    )
    bar.patch.set(alpha=0.8, linewidth=0)
    axes.add_artist(bar)


def _nearest_px(xy_px: NDArray[np.floating]) -> float:
    """Return the median distance of a place's nearest other place, 1 for a single place."""
    from scipy.spatial import cKDTree

    if len(xy_px) == 1:
        return 1.0
    distance_px, _ = cKDTree(xy_px).query(xy_px, k=2)
    return float(np.median(distance_px[:, 1])) or 1.0

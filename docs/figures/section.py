"""The README's picture of a real section: its image, one gene as measured, and the same gene between the spots.

It is drawn from a finished run, of which the project's folder and the section are given:

    kedro run --env her2st --params section=C2,raw_root=<folder>,backbone=efficientnet_lite0,grid.subdivide=4
    python docs/figures/section.py . C2 ERBB2 docs/figures/her2st_C2_ERBB2.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
MARGIN_PITCHES = 0.9
PERCENTILES = (1, 99)
SCALE_BAR_UM = 1000.0
REACH = 1.05  # of the distance of neighbouring sites, beyond which a pixel stays empty


def draw_section(project: Path, section: str, gene: str, run: str = "default") -> Figure:
    """Return image, measured spots and predicted sites of one gene side by side, with a scale bar."""
    measured = anndata.read_h5ad(project / f"data/03_primary/{section}/{run}/expression.h5ad")
    predicted = anndata.read_h5ad(project / f"data/07_model_output/{section}/{run}/super_resolved.h5ad")
    ((_, library),) = predicted.uns["spatial"].items()
    facts = library["metadata"]
    pitch_px = facts["parent_pitch_um"] / facts["mpp"]
    low, high = (f(measured.obsm["spatial"], axis=0) for f in (np.min, np.max))
    (left, top), (right, bottom) = low - MARGIN_PITCHES * pitch_px, high + MARGIN_PITCHES * pitch_px
    site_px = facts["site_pitch_um"] / facts["mpp"]
    titles = (
        "H&E image",
        f"{gene}, measured ({measured.n_obs} spots)",
        f"{gene}, predicted ({predicted.n_obs} sites, {facts['site_pitch_um']:g} µm apart)",
    )
    figure = Figure(figsize=(13.5, 3.9), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 3)
    for axes, title in zip(panels, titles, strict=True):
        _show_image(axes, library, faded=axes is not panels[0])
        axes.set_title(title, fontsize=13)
        axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    values = _values(measured, gene)
    diameter = np.full(len(values), facts["parent_spot_diameter_fullres"])
    where = {"offsets": measured.obsm["spatial"], "offset_transform": panels[1].transData}
    spots = EllipseCollection(diameter, diameter, np.zeros_like(diameter), units="xy", linewidths=0, **where)
    spots.set(array=values, cmap="magma", clim=np.percentile(values, PERCENTILES))
    panels[1].add_collection(spots)
    values = _values(predicted, gene)
    surface = _surface(predicted.obsm["spatial"], values, (left, right, bottom, top), site_px)
    sites = panels[2].imshow(surface, cmap="magma", extent=(left, right, bottom, top), interpolation="nearest")
    sites.set_clim(np.percentile(values, PERCENTILES))
    for axes, drawn in ((panels[1], spots), (panels[2], sites)):
        figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.01).set_label("log1p of counts per 10 000", fontsize=10)
    bar_px, y = SCALE_BAR_UM / facts["mpp"], bottom - 0.35 * pitch_px
    panels[0].plot([left + 100, left + 100 + bar_px], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    panels[0].text(left + 100 + bar_px / 2, y - 90, f"{SCALE_BAR_UM / 1000:g} mm", ha="center", fontsize=11)
    return figure


def _show_image(axes: Axes, library: dict, *, faded: bool) -> None:
    image, scale = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
    height, width = np.array(image.shape[:2]) / scale
    axes.imshow(image, extent=(0, width, height, 0), alpha=0.35 if faded else 1.0)


def _surface(xy_px: Floats, values: Floats, extent: tuple[float, float, float, float], pitch_px: float) -> Floats:
    """Return the value of the nearest site at each pixel of a raster (row, column); NaN where none is near."""
    left, right, bottom, top = extent
    step = pitch_px / 8
    x, y = np.arange(left, right, step), np.arange(top, bottom, step)
    pixels = np.stack(np.meshgrid(x, y), axis=-1)
    nearest = cKDTree(xy_px).query(pixels, distance_upper_bound=REACH * pitch_px)[1]
    return np.append(values, np.nan)[nearest]


def _values(data: AnnData, gene: str) -> Floats:
    return data[:, gene].to_df()[gene].to_numpy(float)


if __name__ == "__main__":
    project, section, gene, file = sys.argv[1:]
    draw_section(Path(project), section, gene).savefig(file, dpi=110, bbox_inches="tight", pil_kwargs={"quality": 88})

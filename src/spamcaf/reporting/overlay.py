"""The section check that a person can make at a glance: do spots, picture and tissue belong together?"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

_SPOTS = "#00a040"  # green stands out on pink, purple and white
_OUTLINE = "#d55e00"
_INCHES = 7.0
_MANY = 1500  # spots from which circles are drawn smaller, lest they cover the picture


def plot_overlay(
    thumbnail: NDArray[np.uint8],
    spots_xy_px: NDArray[np.float64],
    thumbnail_scale: float,
    tissue_outline: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw the spots on the thumbnail, and the edge of the tissue mask where one is given.

    `thumbnail` is (row, column, 3) RGB, `spots_xy_px` (spot, 2) in full-resolution pixels, `thumbnail_scale` thumbnail
    pixels per full-resolution pixel. `tissue_outline`, True on tissue, covers the same picture at any resolution.
    The axes are in thumbnail pixels, y down.
    """
    height, width = thumbnail.shape[:2]
    figure = Figure(figsize=(_INCHES, _INCHES * height / width + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(thumbnail, extent=(0, width, height, 0))
    x, y = (spots_xy_px * thumbnail_scale).T
    size = min(1.0, _MANY / max(len(x), 1))
    axes.scatter(x, y, s=14 * size, facecolors="none", edgecolors=_SPOTS, linewidths=1.1 * size**0.5)
    handles = [Line2D([], [], marker="o", linestyle="", markerfacecolor="none", color=_SPOTS, label="spots")]
    if tissue_outline is not None and tissue_outline.any() and not tissue_outline.all():
        rows, columns = tissue_outline.shape
        column_px = (np.arange(columns) + 0.5) * width / columns
        row_px = (np.arange(rows) + 0.5) * height / rows
        axes.contour(column_px, row_px, tissue_outline.astype(float), levels=[0.5], colors=_OUTLINE, linewidths=1.2)
        handles.append(Line2D([], [], color=_OUTLINE, label="edge of tissue"))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    axes.set_title(f"{len(x)} spots, {int((~inside).sum())} outside the picture", fontsize=10)
    axes.set(xlim=(min(0, x.min()), max(width, x.max())), ylim=(max(height, y.max()), min(0, y.min())), aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(handles=handles, loc="upper right", fontsize=8, framealpha=0.9)
    return figure

"""Painting nuclei into a picture's block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.sections.simulation.cells import Ints
from spamcaf.sections.simulation.fields import Floats
from spamcaf.sections.simulation.nuclei import Nuclei

REACH_UM = 13.0
"""No nucleus is longer than this from its centre; longer ones are cut."""


def painted(nuclei: Nuclei, columns: range, rows: range, mpp: float) -> Floats:
    """Return (row, column) optical density of the nuclei on these pixels; the darkest wins where they overlap.

    Each ellipse fades over about a pixel at its edge, has a dark rim (the nuclear membrane) and a paler inside.
    """
    margin = int(np.ceil(REACH_UM / mpp)) + 1
    canvas = np.zeros((len(rows) + 2 * margin, len(columns) + 2 * margin), dtype=np.float32)
    px, py = nuclei.x / mpp - columns.start + margin, nuclei.y / mpp - rows.start + margin
    half = np.ceil(np.minimum(nuclei.long_um, REACH_UM) / mpp).astype(int)
    fits = (px > half) & (py > half) & (px < canvas.shape[1] - half - 1) & (py < canvas.shape[0] - half - 1)
    for reach in np.unique(half[fits]):
        chosen = (fits & (half == reach)).nonzero()[0]
        column, row = _patches(px[chosen], reach)[:, None, :], _patches(py[chosen], reach)[:, :, None]
        dx, dy = ((p + 0.5 - c[chosen, None, None]) * mpp for p, c in ((column, px), (row, py)))
        density = _density(nuclei, chosen, dx.astype(np.float32), dy.astype(np.float32), max(mpp, 0.5))
        np.maximum.at(canvas.reshape(-1), (row * canvas.shape[1] + column).ravel(), density.ravel())
    return canvas[margin : margin + len(rows), margin : margin + len(columns)]


def _patches(centre_px: Floats, reach: int) -> Ints:
    """Return (nucleus, 2 reach + 1) pixels around each centre."""
    return np.floor(centre_px).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)


def _density(nuclei: Nuclei, chosen: NDArray[np.intp], dx: Floats, dy: Floats, edge_um: float) -> Floats:
    """Return (nucleus, row, column) optical density at offsets `dx`, `dy` in micrometres from the centres."""
    long, short, angle, darkness = (
        values[chosen, None, None].astype(np.float32)
        for values in (nuclei.long_um, nuclei.short_um, nuclei.angle, nuclei.darkness)
    )
    cos, sin = np.cos(angle), np.sin(angle)
    radius = np.sqrt(np.square((dx * cos + dy * sin) / long) + np.square((dy * cos - dx * sin) / short))
    cover = np.clip((1 - radius) * short / edge_um + 0.5, 0, 1)
    rim = np.clip(1 - np.abs(radius - 0.82) / 0.25, 0, 1)
    return cover * (0.80 + 0.28 * rim) * darkness

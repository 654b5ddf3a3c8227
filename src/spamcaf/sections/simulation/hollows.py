"""The white holes of the picture: fat vacuoles and the lumina of ducts, with their walls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spamcaf.sections.simulation.cells import Scatter
from spamcaf.sections.simulation.fields import Floats

MEMBRANE_UM = 2.2
WALL_UM = 13.0


@dataclass(frozen=True)
class Hollows:
    """Shares in [0, 1] of each place: `clear` is a hole, `wall` the epithelium of a duct, `angle` points outwards."""

    clear: Floats
    wall: Floats
    angle: Floats


def ramp(value: Floats, width: float) -> Floats:
    """Return 0 below and 1 above 0, linear over `width` around it."""
    return np.clip(value / np.float32(width) + np.float32(0.5), 0, 1)


class HollowField:
    """Fat vacuoles and ducts, the same wherever one looks from."""

    def __init__(self, key: int) -> None:
        self._fat = Scatter(key, 50.0, 0.30)
        self._ducts = Scatter(key + 1, 82.0, 0.20)

    def at(self, x: Floats, y: Floats, adipose: Floats, gland: Floats, edge_um: float) -> Hollows:
        """Return the hollows at `x`, `y`, where the tissue is `adipose` or `gland` (shares of membership).

        `edge_um` is the width over which an edge fades, about a pixel.
        """
        nothing: Floats = np.zeros(adipose.shape, np.float32)
        clear = wall = angle = nothing
        in_fat, in_gland = ramp(adipose - 0.55, 0.3), ramp(gland - 0.5, 0.2)
        if in_fat.any():
            clear = self._vacuoles(x, y, edge_um) * in_fat
        if in_gland.any():
            lumen, epithelium, angle = self._duct_parts(x, y, edge_um)
            clear, wall = np.maximum(clear, lumen * in_gland), epithelium * in_gland
        return Hollows(clear, wall, angle)

    def _vacuoles(self, x: Floats, y: Floats, edge_um: float) -> Floats:
        near = self._fat.nearest(x, y)
        between = (near.second - near.first) / 2  # distance from the wall shared with the next vacuole
        return np.minimum(ramp(between - MEMBRANE_UM, edge_um), ramp(34 - near.first, edge_um))

    def _duct_parts(self, x: Floats, y: Floats, edge_um: float) -> tuple[Floats, Floats, Floats]:
        near = self._ducts.nearest(x, y)
        angle = np.arctan2(near.dy, near.dx)
        phase = 2 * np.pi * self._ducts.uniform(near.column, near.row, 2).astype(np.float32)
        radius = 6 + 13 * self._ducts.uniform(near.column, near.row, 3).astype(np.float32)
        radius *= 1 + 0.18 * np.cos(2 * angle + phase) + 0.08 * np.cos(5 * angle - phase)
        beyond = near.first - radius
        wall = ramp(beyond, edge_um) * ramp(WALL_UM - beyond, max(edge_um, 2.0))
        return ramp(-beyond, edge_um), wall, angle

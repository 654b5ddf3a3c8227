"""Cell nuclei: which places are taken, and by what kind of cell."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spamcaf.sections.simulation.cells import Ints, Scatter
from spamcaf.sections.simulation.domains import ADIPOSE, GLAND, domain_values
from spamcaf.sections.simulation.fields import Floats
from spamcaf.sections.simulation.hollows import HollowField, Hollows
from spamcaf.sections.simulation.landscape import Landscape, Visible

WALL_DENSITY, WALL_LONG_UM, WALL_SHORT_UM = 0.9, 3.9, 2.4
"""Nuclei of duct epithelium, in the unit of `Domain.density` and micrometres."""


@dataclass(frozen=True)
class Nuclei:
    """Ellipses, one per row: centre and semi-axes in micrometres, angle in radians, darkness as optical density."""

    x: Floats
    y: Floats
    long_um: Floats
    short_um: Floats
    angle: Floats
    darkness: Floats


@dataclass(frozen=True)
class _Cells:
    """Cells of the scatter with what their nuclei depend on; `along` the fibres, `outwards` from a duct's lumen."""

    column: Ints
    row: Ints
    x: Floats
    y: Floats
    kind: Ints
    grade: Floats
    along: Floats
    wall: Floats
    outwards: Floats

    def at(self, index: NDArray[np.bool_]) -> Self:
        return replace(self, **{field.name: getattr(self, field.name)[index] for field in fields(self)})


class NucleusField:
    """Nuclei of one spacing, the same wherever one looks from."""

    def __init__(self, landscape: Landscape, hollows: HollowField, key: int, *, is_crowded: bool) -> None:
        self._landscape, self._hollows, self._is_crowded = landscape, hollows, is_crowded
        self._scatter = Scatter(key, 7.0 if is_crowded else 11.5, 0.28)
        mine = domain_values("is_crowded").astype(bool) == is_crowded
        self._density = np.where(mine, domain_values("density"), 0.0)[:, None, None]

    def within(self, left: float, top: float, right: float, bottom: float) -> Nuclei:
        """Return the nuclei of all cells that touch a rectangle given in micrometres."""
        pitch = self._scatter.pitch_um
        columns = np.arange(np.floor(left / pitch), np.floor(right / pitch) + 1).astype(np.int64)
        rows = np.arange(np.floor(top / pitch), np.floor(bottom / pitch) + 1).astype(np.int64)
        column, row = np.meshgrid(columns, rows)
        centre = (columns[None] + 0.5) * pitch, (rows[:, None] + 0.5) * pitch
        x, y = self._scatter.points(column, row)
        visible = self._landscape.visible(*centre)
        hollows = self._hollows.at(x, y, visible.membership[ADIPOSE], visible.membership[GLAND], 1.0)
        kind, is_taken = self._kind(visible, hollows, self._scatter.uniform(column, row, 2))
        is_taken &= self._landscape.depth_um(*centre) > 0
        every = _Cells(column, row, x, y, kind, visible.grade, self._fibre_angle(*centre), hollows.wall, hollows.angle)
        return self._ellipses(every.at(is_taken))

    def _kind(self, visible: Visible, hollows: Hollows, draw: Floats) -> tuple[Ints, NDArray[np.bool_]]:
        chance = visible.membership * self._density * np.exp(0.35 * visible.cellularity)
        chance = chance * (1 - hollows.clear) * (1 - hollows.wall)
        if self._is_crowded:
            chance[GLAND] += WALL_DENSITY * hollows.wall
        reached = np.cumsum(chance, axis=0)
        return np.minimum((draw >= reached).sum(axis=0), len(reached) - 1), draw < reached[-1]

    def _fibre_angle(self, x: Floats, y: Floats) -> Floats:
        across, _ = self._landscape.fibre_coordinates(x, y)
        down, right = np.gradient(across)
        return np.arctan2(right, -down)  # at a right angle to the gradient

    def _ellipses(self, cells: _Cells) -> Nuclei:
        turn, size, shape, shade = (
            self._scatter.uniform(cells.column, cells.row, channel) - 0.5 for channel in range(3, 7)
        )
        long, short, is_aligned, darkness = (
            domain_values(field)[cells.kind] for field in ("long_um", "short_um", "is_aligned", "darkness")
        )
        in_wall = cells.wall > 0.5  # noqa: PLR2004
        scale, stretch = np.exp(0.14 * cells.grade + 0.3 * size), np.exp(0.3 * shape)
        angle = np.where(is_aligned > 0, cells.along + 0.6 * turn, 2 * np.pi * turn)
        return Nuclei(
            cells.x,
            cells.y,
            np.where(in_wall, WALL_LONG_UM, long) * scale * stretch,
            np.where(in_wall, WALL_SHORT_UM, short) * scale / stretch,
            np.where(in_wall, cells.outwards + 0.4 * turn, angle),
            darkness * (1 + 0.4 * shade),
        )

"""Cell nuclei and white holes of the simulated tissue, the same wherever one looks from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spamcaf.simulation.tissue_map import ADIPOSE, GLAND, Floats, Landscape, Visible, domain_values

Ints = NDArray[np.int64]


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hashed_uniform(key: int, column: Ints, row: Ints, channel: int) -> Floats:
    """Return numbers in [0, 1) that depend on the key, the integer cell and the channel, and on nothing else."""
    start = _mixed(np.full(1, key * 64 + channel + 1, dtype=np.uint64))
    hashed = _mixed(_mixed(start + column.astype(np.uint64)) + row.astype(np.uint64))
    return (hashed >> np.uint64(11)).astype(np.float64) / 2.0**53


@dataclass(frozen=True)
class Nearest:
    """The nearest scattered point of each place: its offset and distance, the distance of the second, and its cell."""

    dx: Floats
    dy: Floats
    first: Floats
    second: Floats
    column: Ints
    row: Ints


@dataclass(frozen=True)
class Scatter:
    """One point per square cell of `pitch_um`, moved from its centre by up to `jitter` pitches (< 0.5) each way."""

    key: int
    pitch_um: float
    jitter: float

    def uniform(self, column: Ints, row: Ints, channel: int) -> Floats:
        """Return numbers in [0, 1) of the points of these cells; channels 0 and 1 place the points."""
        return hashed_uniform(self.key, column, row, channel)

    def points(self, column: Ints, row: Ints) -> tuple[Floats, Floats]:
        """Return x and y, micrometres, of the points of these cells."""
        x = column + 0.5 + self.jitter * (2 * self.uniform(column, row, 0) - 1)
        y = row + 0.5 + self.jitter * (2 * self.uniform(column, row, 1) - 1)
        return x * self.pitch_um, y * self.pitch_um

    def nearest(self, x: Floats, y: Floats) -> Nearest:
        """Return the nearest point to each place, among the 3 x 3 cells around it; `x`, `y` broadcast."""
        column, row = np.floor(x / self.pitch_um).astype(np.int64), np.floor(y / self.pitch_um).astype(np.int64)
        left, top = int(column.min()) - 1, int(row.min()) - 1
        cells = np.meshgrid(np.arange(left, column.max() + 2), np.arange(top, row.max() + 2))
        n_columns = cells[0].shape[1]
        px, py = (p.astype(np.float32).ravel() for p in self.points(*cells))
        shape = np.broadcast_shapes(x.shape, y.shape)
        x, y = x.astype(np.float32), y.astype(np.float32)
        first, second = np.full(shape, np.inf, np.float32), np.full(shape, np.inf, np.float32)
        best = np.zeros(shape, dtype=np.int64)
        own = (row - top) * n_columns + (column - left)
        for step in (-1, 0, 1):
            for side in (-1, 0, 1):
                cell = own + (step * n_columns + side)
                distance = np.square(x - px[cell]) + np.square(y - py[cell])
                second = np.minimum(second, np.maximum(first, distance))
                best = np.where(distance < first, cell, best)
                first = np.minimum(first, distance)
        dx, dy = x - px[best], y - py[best]
        return Nearest(dx, dy, np.sqrt(first), np.sqrt(second), best % n_columns + left, best // n_columns + top)


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

"""Cell nuclei, fat vacuoles and ducts of the simulated tissue: functions of coordinates, equal in every window."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from spamcaf.simulation.tissue_map import ADIPOSE, GLAND, Floats, TissueMap, domain_values

Ints = NDArray[np.int64]

_MEMBRANE_UM, _WALL_UM = 2.2, 13.0  # of a fat vacuole, of a duct
# nuclei of duct epithelium, in the unit of `Domain.density` and micrometres
_WALL_DENSITY, _WALL_LONG_UM, _WALL_SHORT_UM = 0.9, 3.9, 2.4


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class Nearest:
    """The nearest scattered point: its offset and distance, the distance of the second nearest, and its cell."""

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
        """Return numbers in [0, 1) that depend on the key, the cell and the channel alone; 0 and 1 place the points."""
        start = _mixed(np.full(1, self.key * 64 + channel + 1, dtype=np.uint64))
        hashed = _mixed(_mixed(start + column.astype(np.uint64)) + row.astype(np.uint64))
        return (hashed >> np.uint64(11)).astype(np.float64) / 2.0**53

    def points(self, column: Ints, row: Ints) -> tuple[Floats, Floats]:
        """Return x and y, micrometres, of the points of these cells."""
        x = column + 0.5 + self.jitter * (2 * self.uniform(column, row, 0) - 1)
        y = row + 0.5 + self.jitter * (2 * self.uniform(column, row, 1) - 1)
        return x * self.pitch_um, y * self.pitch_um

    def nearest(self, x: Floats, y: Floats) -> Nearest:
        """Return the point nearest to each (x, y), among the 3 x 3 cells around it; `x`, `y` broadcast."""
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
        for step, side in product((-1, 0, 1), repeat=2):
            cell = own + (step * n_columns + side)
            distance = np.square(x - px[cell]) + np.square(y - py[cell])
            second = np.minimum(second, np.maximum(first, distance))
            best = np.where(distance < first, cell, best)
            first = np.minimum(first, distance)
        dx, dy = x - px[best], y - py[best]
        return Nearest(dx, dy, np.sqrt(first), np.sqrt(second), best % n_columns + left, best // n_columns + top)


def ramp(value: Floats, width: float) -> Floats:
    """Return 0 below and 1 above 0, linear over `width` around it."""
    return np.clip(value / np.float32(width) + np.float32(0.5), 0, 1)


@dataclass(frozen=True)
class Cavities:
    """Vacuoles and lumina: shares in [0, 1] that are `clear`, or `wall` of a duct; `angle` away from its centre."""

    clear: Floats
    wall: Floats
    angle: Floats


class CavityMap:
    """The vacuoles of fat and the lumina and walls of ducts, as functions of coordinates in micrometres."""

    def __init__(self, key: int) -> None:
        self._fat = Scatter(key, 50.0, 0.30)
        self._ducts = Scatter(key + 1, 82.0, 0.20)

    def at(self, x: Floats, y: Floats, membership: Floats, edge_um: float) -> Cavities:
        """Return what is there, given the domains' `membership` (domain, ...); edges fade over `edge_um`."""
        adipose, gland = membership[ADIPOSE], membership[GLAND]
        clear = wall = angle = np.zeros(adipose.shape, np.float32)
        in_fat, in_gland = ramp(adipose - 0.55, 0.3), ramp(gland - 0.5, 0.2)
        if in_fat.any():
            near = self._fat.nearest(x, y)
            between = (near.second - near.first) / 2  # distance from the wall shared with the next vacuole
            vacuole = np.minimum(ramp(between - _MEMBRANE_UM, edge_um), ramp(34 - near.first, edge_um))
            clear = vacuole * in_fat
        if in_gland.any():
            lumen, epithelium, angle = self._ducts_at(x, y, edge_um)
            clear, wall = np.maximum(clear, lumen * in_gland), epithelium * in_gland
        return Cavities(clear, wall, angle)

    def _ducts_at(self, x: Floats, y: Floats, edge_um: float) -> tuple[Floats, Floats, Floats]:
        near = self._ducts.nearest(x, y)
        angle = np.arctan2(near.dy, near.dx)
        turn, size = (self._ducts.uniform(near.column, near.row, channel).astype(np.float32) for channel in (2, 3))
        phase = 2 * np.pi * turn
        radius = (6 + 13 * size) * (1 + 0.18 * np.cos(2 * angle + phase) + 0.08 * np.cos(5 * angle - phase))
        beyond = near.first - radius
        wall = ramp(beyond, edge_um) * ramp(_WALL_UM - beyond, max(edge_um, 2.0))
        return ramp(-beyond, edge_um), wall, angle


@dataclass(frozen=True)
class Nuclei:
    """Ellipses, one per row: centre and semi-axes in micrometres, angle in radians, darkness as optical density."""

    x: Floats
    y: Floats
    long_um: Floats
    short_um: Floats
    angle: Floats
    darkness: Floats


class NucleusMap:
    """The nuclei of one spacing: at most one per cell of a scatter."""

    def __init__(self, tissue: TissueMap, cavities: CavityMap, key: int, *, is_crowded: bool) -> None:
        self._tissue, self._cavities, self._is_crowded = tissue, cavities, is_crowded
        self._scatter = Scatter(key, 7.0 if is_crowded else 11.5, 0.28)
        mine = domain_values("is_crowded").astype(bool) == is_crowded
        self._density = np.where(mine, domain_values("density"), 0.0)[:, None, None]

    def within(self, left: float, top: float, right: float, bottom: float) -> Nuclei:
        """Return the nuclei of all cells that touch a rectangle given in micrometres."""
        pitch = self._scatter.pitch_um
        columns = np.arange(np.floor(left / pitch), np.floor(right / pitch) + 1).astype(np.int64)
        rows = np.arange(np.floor(top / pitch), np.floor(bottom / pitch) + 1).astype(np.int64)
        centre = (columns[None] + 0.5) * pitch, (rows[:, None] + 0.5) * pitch
        column, row = np.meshgrid(columns, rows)
        x, y = self._scatter.points(column, row)
        visible = self._tissue.visible(*centre)
        cavities = self._cavities.at(x, y, visible.membership, 1.0)
        chance = visible.membership * self._density * np.exp(0.35 * visible.cellularity)
        chance = chance * (1 - cavities.clear) * (1 - cavities.wall)
        if self._is_crowded:
            chance[GLAND] += _WALL_DENSITY * cavities.wall
        # one draw per cell chooses among the domains and, above their sum, no nucleus
        reached, draw = np.cumsum(chance, axis=0), self._scatter.uniform(column, row, 2)
        kind = np.minimum((draw >= reached).sum(axis=0), len(reached) - 1)
        is_taken = (draw < reached[-1]) & (self._tissue.depth_um(*centre) > 0)

        turn, size, shape, shade = (
            self._scatter.uniform(column[is_taken], row[is_taken], channel) - 0.5 for channel in range(3, 7)
        )
        long, short, is_aligned, darkness = (
            domain_values(field)[kind[is_taken]] for field in ("long_um", "short_um", "is_aligned", "darkness")
        )
        down, right_ = np.gradient(self._tissue.fibre_coordinates(*centre)[0])
        along = np.arctan2(right_, -down)[is_taken]  # fibres run at a right angle to the gradient
        in_wall = cavities.wall[is_taken] > 0.5  # noqa: PLR2004
        scale, stretch = np.exp(0.14 * visible.grade[is_taken] + 0.3 * size), np.exp(0.3 * shape)
        angle = np.where(is_aligned > 0, along + 0.6 * turn, 2 * np.pi * turn)
        return Nuclei(
            x[is_taken],
            y[is_taken],
            np.where(in_wall, _WALL_LONG_UM, long) * scale * stretch,
            np.where(in_wall, _WALL_SHORT_UM, short) * scale / stretch,
            np.where(in_wall, cavities.angle[is_taken] + 0.4 * turn, angle),
            darkness * (1 + 0.4 * shade),
        )

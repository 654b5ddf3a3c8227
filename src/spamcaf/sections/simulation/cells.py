"""Scattered points that are the same wherever one looks from: one per cell of a square grid, drawn by hashing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.sections.simulation.fields import Floats

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

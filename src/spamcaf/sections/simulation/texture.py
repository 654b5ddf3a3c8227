"""Fine irregularity of the picture: one wrapping table of smooth noise, sampled at any scale."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from spamcaf.sections.simulation.fields import Floats

SIZE = 256


class Texture:
    """Smooth noise of zero mean and unit variance, about two units from one extreme to the next, and pixel noise."""

    def __init__(self, rng: np.random.Generator) -> None:
        table = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1.0, mode="wrap")
        self._table = ((table - table.mean()) / table.std()).astype(np.float32)
        self._pixels = rng.normal(size=(509, 521)).astype(np.float32)  # primes: repeats do not line up with tiles

    def at(self, u: Floats, v: Floats) -> Floats:
        """Return the noise at coordinates `u`, `v` of equal shape, in units."""
        return ndimage.map_coordinates(self._table, [v, u], order=1, mode="grid-wrap", output=np.float32)

    def on_grid(self, u: Floats, v: Floats) -> Floats:
        """Return the noise on the open grid `u` (1, column), `v` (row, 1), in units."""
        rows = self._mixed(self._table, v[:, 0])
        return self._mixed(rows.T, u[0]).T

    @staticmethod
    def _mixed(table: Floats, place: Floats) -> Floats:
        below = np.floor(place).astype(np.int64)
        part = (place - below).astype(np.float32)[:, None]
        return table[below % SIZE] * (1 - part) + table[(below + 1) % SIZE] * part

    def pixel_noise(self, columns: range, rows: range) -> Floats:
        """Return (row, column) independent noise of pixels, by their place in the whole picture."""
        return self._pixels[np.ix_(np.asarray(rows) % 509, np.asarray(columns) % 521)]

"""A regular raster of tiles over a slide, each with a map of features, and pooling them by area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.tiles import TILES_ACROSS


@dataclass(frozen=True)
class Raster:
    """Tiles side by side from the slide's upper left pixel on, or overlapping by half.

    It depends on a tile's width alone, so that spots and grid share it. `tile_px` is that width in full-resolution
    pixels, `side` the features across a tile, `overlap` (1 or 2) the tiles over every place along either axis. Rows
    and columns count tiles; strip i, along either axis, goes from where tile i begins to where the next one does.
    """

    tile_px: int
    side: int
    overlap: int = 1

    def at(self, index: int) -> int:
        """Return where a row or column begins, in features from the raster's origin."""
        return index // self.overlap * self.side + index % self.overlap * (self.side // 2)

    def at_px(self, index: int) -> int:
        """Return where a row or column begins, in pixels; an overlapping one to the nearest pixel."""
        half = round(self.side // 2 * self.tile_px / self.side)
        return index // self.overlap * self.tile_px + index % self.overlap * half

    def first(self, corners_px: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first strip that windows from these pixels on touch."""
        return self._strip(corners_px * self.side // self.tile_px)

    def last(self, corners_px: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the last strip that windows from these pixels on touch."""
        return self._strip(-(-(corners_px * self.side) // self.tile_px) + TILES_ACROSS * self.side - 1)

    def _strip(self, features: NDArray[np.int64]) -> NDArray[np.int64]:
        whole, rest = np.divmod(features, self.side)
        strips: NDArray[np.int64] = whole * self.overlap
        return strips + (rest >= self.side // 2) if self.overlap > 1 else strips

    def edges(self, corner_px: int) -> NDArray[np.float64]:
        """Return where the borders of a window's tiles lie, (4,), in features from the raster's origin."""
        return corner_px * self.side / self.tile_px + self.side * np.arange(TILES_ACROSS + 1, dtype=np.float64)

    def tiles(self, corners_px: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tiles over what windows from (site, 2), x and y, touch: (tile, 2), row and column, sorted."""
        if not len(corners_px):
            return np.empty((0, 2), np.int64)
        first = (self.first(corners_px) - self.overlap + 1)[:, ::-1]
        after = self.last(corners_px)[:, ::-1] + 1
        origin = first.min(axis=0)
        count = np.zeros(after.max(axis=0) - origin + 1, np.int64)
        # each site's rectangle by its four corners, filled by summing along both axes
        for rows, row_sign in ((first, 1), (after, -1)):
            for columns, column_sign in ((first, 1), (after, -1)):
                np.add.at(count, (rows[:, 0] - origin[0], columns[:, 1] - origin[1]), row_sign * column_sign)
        return np.argwhere(count.cumsum(axis=0).cumsum(axis=1) > 0) + origin


@dataclass(frozen=True)
class Band:
    """One strip of the raster: its features summed from the left, (row, column + 1, feature) float32.

    `row0` and `column0` say where it begins, in features from the raster's origin.
    """

    sums: NDArray[np.float32]
    row0: int
    column0: int

    @classmethod
    def of(cls, features: NDArray[np.float32], row0: int, column0: int) -> Band:
        """Return the band of (row, column + 1, feature), whose first column is zero; `features` is overwritten."""
        np.cumsum(features, axis=1, out=features)
        return cls(features, row0, column0)

    def pool(self, x_edges: NDArray[np.float64], y_edges: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the features summed by area over each box between the edges, (box row, box column, feature).

        A box that reaches beyond the band gets what lies inside.
        """
        n_rows, n_sums, width = self.sums.shape
        y = np.clip(y_edges - self.row0, 0, n_rows)
        start, stop = int(np.floor(y[0])), int(np.ceil(y[-1]))
        if stop <= start:
            return np.zeros((len(y_edges) - 1, len(x_edges) - 1, width), np.float32)
        x = np.clip(x_edges - self.column0, 0, n_sums - 1)
        left = np.minimum(x.astype(np.int64), n_sums - 2)
        share = (x - left).astype(np.float32)[:, None]
        rows = self.sums[start:stop]
        at_edges = rows[:, left] * (1 - share) + rows[:, left + 1] * share  # (row, edge, feature)
        return np.tensordot(_overlap(y, start, stop), np.diff(at_edges, axis=1), axes=1)


def _overlap(edges: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float32]:
    """Return how much of each unit interval from `start` to `stop` lies between neighbouring edges, (box, interval)."""
    low = np.arange(start, stop)
    inside = np.minimum(edges[1:, None], low + 1) - np.maximum(edges[:-1, None], low)
    return np.clip(inside, 0, None).astype(np.float32)

"""Dense features: the slide goes through the backbone once, on a regular grid of tiles, and windows are averaged of it.

The last layer of a backbone gives a map of features for a tile, 7 x 7 or 16 x 16 for instance. The maps of the grid's
tiles together are one map of the slide. Each of the nine tiles of a site's window gets the mean of that map over its
area, a feature at the border counting by the part of it that lies inside. So overlapping windows cost no more passes.

The map of a whole slide would not fit into memory. It is computed row by row of tiles, from the top to the bottom, and
cut into bands; sites are read in the same order, and bands above the current window are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, FeatureMap
from spamcaf.histology.embedding import Embedder, EmbeddingJob
from spamcaf.histology.features import Features
from spamcaf.histology.tiles import N_TILES, TILE_PX, TILES_ACROSS, prefetch_tiles

OVERLAP = 2
"""Tiles over every point along either axis. Features at a tile's border see little around them: with the packaged
network, half overlapping tiles come nearer to the exact features (cosine .80 instead of .72, centred) and still need
far fewer passes."""
VIEW = {"dense": f"map of the last layer on a raster from the slide's corner, {OVERLAP} x {OVERLAP} tiles over a place"}
"""Part of a feature key's view that marks this mode."""


@dataclass(frozen=True)
class FeatureGrid:
    """Tiles of `tile_px` full-resolution pixels from the slide's corner on, side by side or overlapping by half.

    It depends on a tile's width alone, so that spots and sites between them share it. `side` is the number of features
    across a tile, `overlap` (1 or 2) that of tiles over every point along either axis. Rows and columns count tiles;
    strip i, along either axis, goes from where tile i begins to where the next one does.
    """

    tile_px: int
    side: int
    overlap: int = 1

    def at(self, index: int) -> int:
        """Return where a row or column begins, in features from the slide's corner."""
        return index // self.overlap * self.side + index % self.overlap * (self.side // 2)

    def at_px(self, index: int) -> int:
        """Return where a row or column begins, in pixels; an overlapping one to the nearest pixel."""
        half = round(self.side // 2 * self.tile_px / self.side)
        return index // self.overlap * self.tile_px + index % self.overlap * half

    def strips(self, corners_px: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and the last strip that windows from these pixels on touch."""
        low = corners_px * self.side // self.tile_px
        high = -(-(corners_px * self.side) // self.tile_px) + TILES_ACROSS * self.side - 1
        (first, first_rest), (last, last_rest) = np.divmod(low, self.side), np.divmod(high, self.side)
        if self.overlap == 1:
            return first, last
        half = self.side // 2
        return first * self.overlap + (first_rest >= half), last * self.overlap + (last_rest >= half)

    def edges(self, corner_px: int) -> NDArray[np.float64]:
        """Return where the borders of a window's tiles lie, (4,), in features from the slide's corner."""
        return corner_px * self.side / self.tile_px + self.side * np.arange(TILES_ACROSS + 1, dtype=np.float64)

    def tiles(self, corners_px: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tiles over what windows from (site, 2), x and y, touch: (tile, 2), row and column, sorted."""
        if not len(corners_px):
            return np.empty((0, 2), np.int64)
        first, last = self.strips(corners_px[:, ::-1])
        first, after = first - self.overlap + 1, last + 1
        origin = first.min(axis=0)
        # how many windows touch each tile: +1 and -1 at the corners of each rectangle, summed along both axes, take one
        # step per site where filling rectangles would take one per tile of each
        count = np.zeros(after.max(axis=0) - origin + 1, np.int64)
        for (rows, row_sign), (columns, column_sign) in product(((first, 1), (after, -1)), repeat=2):
            np.add.at(count, (rows[:, 0] - origin[0], columns[:, 1] - origin[1]), row_sign * column_sign)
        return np.argwhere(count.cumsum(axis=0).cumsum(axis=1) > 0) + origin


class Band:
    """One strip of the map as prefix sums from the left; `row0` and `column0` count features from the slide's corner.

    Made of (row, 1 + column, feature) float32 whose first column is zero, and which is overwritten.
    """

    def __init__(self, features: NDArray[np.float32], row0: int, column0: int) -> None:
        self._sums = np.cumsum(features, axis=1, out=features)
        self._row0, self._column0 = row0, column0

    def pool(self, x_edges: NDArray[np.float64], y_edges: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the features summed by area over each box between the edges, (box row, box column, feature).

        A box that reaches beyond the band gets what lies inside.
        """
        n_rows, n_sums, width = self._sums.shape
        y = np.clip(y_edges - self._row0, 0, n_rows)
        start, stop = int(np.floor(y[0])), int(np.ceil(y[-1]))
        if stop <= start:
            return np.zeros((len(y_edges) - 1, len(x_edges) - 1, width), np.float32)
        x = np.clip(x_edges - self._column0, 0, n_sums - 1)
        left = np.minimum(x.astype(np.int64), n_sums - 2)
        share = (x - left).astype(np.float32)[:, None]
        rows = self._sums[start:stop]
        # along x, a sum between two edges is a difference of two prefix sums, however wide the box: a window costs two
        # reads per edge and row in place of all its features. Between two prefix sums the sum grows linearly, which
        # counts a feature that an edge cuts by its area
        at_edges = rows[:, left] * (1 - share) + rows[:, left + 1] * share  # (row, edge, feature)
        # along y, a band has few rows: each is weighted by its height inside the box
        low = np.arange(start, stop)
        heights = np.minimum(y[1:, None], low + 1) - np.maximum(y[:-1, None], low)  # (box row, row)
        return np.tensordot(np.clip(heights, 0, None).astype(np.float32), np.diff(at_edges, axis=1), axes=1)


class DenseEmbedder(Embedder):
    """A backbone whose `embed` gives its last map, (tile, `side`, `side`, `width`); InputError where it has none."""

    def __init__(
        self, backbone: Backbone, device: torch.device, dtype: torch.dtype, batch: int, *, is_compiled: bool = False
    ) -> None:
        mapped = replace(backbone, network=FeatureMap(backbone.network))
        super().__init__(mapped, device, dtype, batch, is_compiled=is_compiled)
        try:
            _, self.side, _, self.width = self.embed(np.zeros((1, TILE_PX, TILE_PX, 3), np.uint8)).shape
        except TypeError as error:
            raise InputError(
                f"backbone {backbone.identity.name} with tiles.dense: {error}.",
                "a vision transformer or a convolutional network of timm's.",
                "Set tiles.dense to false, or choose another backbone.",
            ) from error


class DenseEmbeddingJob(EmbeddingJob):
    """The sites of a slide to compute dense features of, in order of the grid's rows."""

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Sites by the row of tiles that they begin in, so that few rows are held at a time."""
        corners = self.corners
        return np.lexsort((corners[:, 1], corners[:, 0], corners[:, 1] // self.geometry.tile_px))

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """The windows' upper left pixels, (site, 2), x and y."""
        return self.geometry.corners(self.xy_px).reshape(-1, 2)

    @cached_property
    def n_padded(self) -> NDArray[np.int64]:
        """Pixels of each site's window that lie outside the slide, (site,)."""
        window_px, size_px = self.geometry.window_px, self.slide.shape[::-1]
        inside = np.minimum(self.corners + window_px, size_px) - np.maximum(self.corners, 0)
        return window_px**2 - np.clip(inside, 0, None).prod(axis=1)


def embed_densely(
    job: DenseEmbeddingJob, embedder: DenseEmbedder, starts: Sequence[int], threads: int, overlap: int = OVERLAP
) -> Iterator[Features]:
    """Yield the features of the blocks at `starts`, ascending, while `threads` threads prepare what comes next.

    At most five rows of tiles are held. What is computed of a row depends on all sites of the job, not on `starts`, so
    that a run that was cut off gives the same.
    """
    if job.with_whole:
        raise InputError(
            "tiles.dense with fit.model released.",
            "one of them: released uses whole windows, which dense features do not have.",
            "Set tiles.dense to false, or fit.model to spamcaf.",
        )
    bands = _Bands(job, embedder, starts, threads, overlap)
    for start in starts:
        rows = job.rows(start)
        windows = np.empty((len(rows), N_TILES, embedder.width), np.float32)
        for i, row in enumerate(rows):
            windows[i] = bands.pool(job.corners[row])
        yield Features(job.ids_at(start), windows, job.n_padded[rows], job.key, len(job.ids), start)


class _Bands:
    """Bands of the map, computed from the top to the bottom as windows need them."""

    def __init__(
        self, job: DenseEmbeddingJob, embedder: DenseEmbedder, starts: Sequence[int], threads: int, overlap: int
    ) -> None:
        self._embedder, self._batch = embedder, embedder.batch
        # a map of one feature cannot be halved
        self._grid = FeatureGrid(job.geometry.tile_px, embedder.side, min(overlap, embedder.side))
        tiles = self._grid.tiles(job.corners)
        self._columns = {int(row): tiles[tiles[:, 0] == row, 1].tolist() for row in np.unique(tiles[:, 0])}
        self._extent = (int(tiles[:, 1].min()), int(tiles[:, 1].max())) if len(tiles) else (0, 0)
        corners = np.concatenate([job.corners[job.rows(start)] for start in starts])
        needed = np.unique(self._grid.tiles(corners)[:, 0]).tolist()
        self._rows = iter(needed)
        ahead = (boxes for row in needed for boxes in self._boxes(row))
        self._tiles = prefetch_tiles(job.slide, ahead, job.stain, threads)
        self._lower: tuple[int, NDArray[np.float32]] | None = None
        self._held: dict[int, Band] = {}

    def pool(self, corner_px: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (9, feature) of the window at (x, y); windows have to come by the row of tiles they begin in."""
        grid = self._grid
        x_edges, y_edges = (grid.edges(int(pixel)) for pixel in corner_px)
        first, last = (int(strip[1]) for strip in grid.strips(corner_px))
        # the next window may begin anywhere in this row of tiles, so the whole row is kept
        begun = first // grid.overlap * grid.overlap
        self._held = {strip: band for strip, band in self._held.items() if strip >= begun}
        while last not in self._held:
            self._compute_row()
        summed = sum(self._held[strip].pool(x_edges, y_edges) for strip in range(first, last + 1))
        return np.asarray(summed / (grid.side * grid.overlap) ** 2, np.float32).reshape(N_TILES, -1)

    def _boxes(self, row: int) -> Iterator[NDArray[np.int64]]:
        """Yield the tiles of a row as x, y and width in pixels, (tile, 3), batch by batch."""
        grid, columns = self._grid, self._columns[row]
        for i in range(0, len(columns), self._batch):
            corners = [(grid.at_px(column), grid.at_px(row), grid.tile_px) for column in columns[i : i + self._batch]]
            yield np.array(corners, np.int64)

    def _compute_row(self) -> None:
        """Compute the next row of tiles, which completes one strip: with overlap its lower half awaits the next row."""
        grid, row = self._grid, next(self._rows)
        features, above = self._map_of(row), self._lower
        if grid.overlap > 1:
            height = grid.at(row + 1) - grid.at(row)
            self._lower = (row, features[height:].copy())  # a view would keep the whole row
            if above is None or above[0] != row - 1:
                return
            features = features[:height] + above[1]
        self._held[row] = Band(features, grid.at(row), grid.at(self._extent[0]))

    def _map_of(self, row: int) -> NDArray[np.float32]:
        """Return a row's features, those of overlapping tiles added: (row, 1 + column, feature), the first column 0."""
        grid, (left, right) = self._grid, self._extent
        begin = grid.at(left)
        # tiles that no site touches stay zero: nothing is read of them
        features = np.zeros((grid.side, grid.at(right) + grid.side - begin + 1, self._embedder.width), np.float32)
        columns = iter(self._columns[row])
        for batch in islice(self._tiles, -(-len(self._columns[row]) // self._batch)):
            for tile in self._embedder.embed(batch.tiles).cpu().numpy():
                at = grid.at(next(columns)) - begin + 1
                features[:, at : at + grid.side] += tile
        return features

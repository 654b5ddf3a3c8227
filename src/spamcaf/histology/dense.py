"""Dense features.

The slide once through the backbone on a regular grid of tiles, its last layer's map averaged per tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.backbone import TILE_PX
from spamcaf.histology.embedding import Embedder, EmbeddingJob
from spamcaf.histology.features import Features
from spamcaf.histology.tiles import N_TILES, TILES_ACROSS, prefetch_tiles

if TYPE_CHECKING:
    import torch

    from spamcaf.histology.backbone import Backbone
    from spamcaf.histology.tiles import TileBatch


@dataclass(frozen=True)
class FeatureGrid:
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


OVERLAP = 2
"""Tiles over every place along either axis. Features at a tile's border see little around them: with the packaged
network, half overlapping tiles come nearer to the exact features (cosine .80 instead of .72, centred) and still need
far fewer passes."""
VIEW = {"dense": f"map of the last layer on a raster from the slide's corner, {OVERLAP} x {OVERLAP} tiles over a place"}
"""What a feature key's view says of this mode."""


class DenseEmbedder(Embedder):
    """A backbone on its device that gives the map of its last layer; raise InputError where it has none.

    `embed` returns (tile, row, column, feature); `side` is its number of rows and columns, `width` its features.
    """

    def __init__(
        self, backbone: Backbone, device: torch.device, dtype: torch.dtype, batch: int, *, is_compiled: bool = False
    ) -> None:
        from spamcaf.histology.backbone import FeatureMap

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
    """What is to be seen of a slide, row by row of the raster; windows shrunk to one tile are not."""

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Sites by the row of tiles that they begin in, so that few rows are held at a time."""
        corners = self.corners
        return np.lexsort((corners[:, 1], corners[:, 0], corners[:, 1] // self.geometry.tile_px))

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """The windows' upper left pixels, (site, 2), x and y."""
        return self.geometry.corners(self.xy_px).reshape(-1, 2)


def embed_densely(
    job: DenseEmbeddingJob, embedder: DenseEmbedder, starts: Sequence[int], threads: int, overlap: int = OVERLAP
) -> Iterator[Features]:
    """Yield the features of the blocks at `starts`, ascending, while `threads` threads prepare what comes next.

    At most five rows of tiles are held. What is computed of a row depends on all sites of the task, not on `starts`,
    so that a run that was cut off gives the same.
    """
    if job.with_whole:
        raise InputError(
            "tiles.dense with fit.model released.",
            "one of them: released looks at whole windows, which dense features do not have.",
            "Set tiles.dense to false, or fit.model to spamcaf.",
        )
    bands = _Bands(job, embedder, starts, threads, overlap)
    for start in starts:
        rows = job.rows(start)
        pooled = [bands.pool(job.corners[row]) for row in rows]
        windows = np.stack(pooled) if pooled else np.empty((0, N_TILES, embedder.width), np.float32)
        n_padded = np.array([_n_padded(job, row) for row in rows], np.int64)
        yield Features(tuple(job.ids[row] for row in rows), windows, n_padded, job.key, len(job.ids), start)


class _Bands:
    """The strips of the raster that sites of some blocks touch, from the top to the bottom; those passed are let go."""

    def __init__(
        self, job: DenseEmbeddingJob, embedder: DenseEmbedder, starts: Sequence[int], threads: int, overlap: int
    ) -> None:
        self._embedder, self._batch = embedder, embedder.batch
        # a map of one feature cannot be halved
        self._raster = FeatureGrid(job.geometry.tile_px, embedder.side, min(overlap, embedder.side))
        tiles = self._raster.tiles(job.corners)
        self._columns = {int(row): tiles[tiles[:, 0] == row, 1].tolist() for row in np.unique(tiles[:, 0])}
        self._extent = (int(tiles[:, 1].min()), int(tiles[:, 1].max())) if len(tiles) else (0, 0)
        sites = [job.corners[job.rows(start)] for start in starts]
        asked = np.unique(self._raster.tiles(np.concatenate(sites))[:, 0]).tolist() if sites else []
        self._rows = iter(asked)
        ahead = (places for row in asked for places in self._places(row))
        self._tiles: Iterator[TileBatch] = prefetch_tiles(job.slide, ahead, job.stain, threads)
        self._above: tuple[int, NDArray[np.float32]] | None = None
        self._held: dict[int, Band] = {}

    def pool(self, corner_px: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (9, feature) of the window at (x, y); windows have to come by the row of tiles they begin in."""
        feature_grid = self._raster
        x_edges, y_edges = (feature_grid.edges(int(pixel)) for pixel in corner_px)
        first, last = int(feature_grid.first(corner_px)[1]), int(feature_grid.last(corner_px)[1])
        begun = first // feature_grid.overlap * feature_grid.overlap
        self._held = {strip: band for strip, band in self._held.items() if strip >= begun}
        while last not in self._held:
            self._go_on()
        summed = sum(self._held[strip].pool(x_edges, y_edges) for strip in range(first, last + 1))
        per_tile = (feature_grid.side * feature_grid.overlap) ** 2
        return np.asarray(summed / per_tile, np.float32).reshape(N_TILES, -1)

    def _places(self, row: int) -> list[NDArray[np.int64]]:
        """Return the tiles of a row as x, y and width in pixels, (tile, 3), batch by batch."""
        feature_grid = self._raster
        places = np.array(
            [(feature_grid.at_px(c), feature_grid.at_px(row), feature_grid.tile_px) for c in self._columns[row]],
            np.int64,
        )
        return [places[i : i + self._batch] for i in range(0, len(places), self._batch)]

    def _go_on(self) -> None:
        """Compute the next row of tiles, and with it the strip that it is the last one to lie over."""
        row = next(self._rows)
        features, above, self._above = self._computed(row), self._above, None
        feature_grid = self._raster
        height = feature_grid.at(row + 1) - feature_grid.at(row)
        if feature_grid.overlap == 1:
            self._hold(row, features)
            return
        if above is not None and above[0] == row - 1:
            self._hold(row, features[:height] + above[1])
        self._above = (row, features[height:].copy())  # a view would keep the whole row

    def _hold(self, strip: int, features: NDArray[np.float32]) -> None:
        self._held[strip] = Band.of(features, self._raster.at(strip), self._raster.at(self._extent[0]))

    def _computed(self, row: int) -> NDArray[np.float32]:
        """Return a row's features, those of overlapping tiles added: (row, 1 + column, feature), the first column 0."""
        feature_grid, (left, right) = self._raster, self._extent
        begin = feature_grid.at(left)
        # tiles that no site touches stay zero: nothing is read of them
        features = np.zeros(
            (feature_grid.side, feature_grid.at(right) + feature_grid.side - begin + 1, self._embedder.width),
            np.float32,
        )
        columns = iter(self._columns[row])
        for _ in self._places(row):
            for tile in self._embedder.embed(next(self._tiles).tiles).cpu().numpy():
                at = feature_grid.at(next(columns)) - begin + 1
                features[:, at : at + feature_grid.side] += tile
        return features


def _n_padded(job: DenseEmbeddingJob, row: int) -> int:
    """Return how many pixels of a site's window lie outside the slide."""
    rows, columns = job.slide.shape
    corner, window_px = job.corners[row], job.geometry.window_px
    inside = np.minimum(corner + window_px, (columns, rows)) - np.maximum(corner, 0)
    return int(window_px**2 - np.prod(np.clip(inside, 0, None)))

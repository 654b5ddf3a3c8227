"""Features by pooling: the slide once through the backbone on a regular raster, its last layer's map averaged per tile.

On a fine grid, windows of neighbouring sites overlap up to a hundred-fold; here each place of the slide is computed
once. A convolutional network averages its map over the tile anyway; of a vision transformer the patch tokens take the
place of the class token, so features are other ones than the exact mode's: spots and grid have to be of one mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.backbone import TILE_PX
from spamcaf.histology.embedding import Embedder, Task
from spamcaf.histology.features import Features
from spamcaf.histology.raster import Band, Raster
from spamcaf.histology.reading import prepared_ahead
from spamcaf.histology.tiles import N_TILES

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from spamcaf.histology.backbone import Backbone
    from spamcaf.histology.reading import Prepared

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
        from spamcaf.histology.pooling import FeatureMap

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


class DenseTask(Task):
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
    task: DenseTask, embedder: DenseEmbedder, starts: Sequence[int], threads: int, overlap: int = OVERLAP
) -> Iterator[Features]:
    """Yield the features of the blocks at `starts`, ascending, while `threads` threads prepare what comes next.

    At most five rows of tiles are held. What is computed of a row depends on all sites of the task, not on `starts`,
    so that a run that was cut off gives the same.
    """
    if task.with_whole:
        raise InputError(
            "tiles.dense with fit.model released.",
            "one of them: released looks at whole windows, which dense features do not have.",
            "Set tiles.dense to false, or fit.model to spamcaf.",
        )
    bands = _Bands(task, embedder, starts, threads, overlap)
    for start in starts:
        rows = task.rows(start)
        pooled = [bands.pool(task.corners[row]) for row in rows]
        windows = np.stack(pooled) if pooled else np.empty((0, N_TILES, embedder.width), np.float32)
        n_padded = np.array([_n_padded(task, row) for row in rows], np.int64)
        yield Features(tuple(task.ids[row] for row in rows), windows, n_padded, task.key, len(task.ids), start)


class _Bands:
    """The strips of the raster that sites of some blocks touch, from the top to the bottom; those passed are let go."""

    def __init__(
        self, task: DenseTask, embedder: DenseEmbedder, starts: Sequence[int], threads: int, overlap: int
    ) -> None:
        self._embedder, self._batch = embedder, embedder.batch
        # a map of one feature cannot be halved
        self._raster = Raster(task.geometry.tile_px, embedder.side, min(overlap, embedder.side))
        tiles = self._raster.tiles(task.corners)
        self._columns = {int(row): tiles[tiles[:, 0] == row, 1].tolist() for row in np.unique(tiles[:, 0])}
        self._extent = (int(tiles[:, 1].min()), int(tiles[:, 1].max())) if len(tiles) else (0, 0)
        sites = [task.corners[task.rows(start)] for start in starts]
        asked = np.unique(self._raster.tiles(np.concatenate(sites))[:, 0]).tolist() if sites else []
        self._rows = iter(asked)
        ahead = (places for row in asked for places in self._places(row))
        self._tiles: Iterator[Prepared] = prepared_ahead(task.slide, ahead, task.stain, threads)
        self._above: tuple[int, NDArray[np.float32]] | None = None
        self._held: dict[int, Band] = {}

    def pool(self, corner_px: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (9, feature) of the window at (x, y); windows have to come by the row of tiles they begin in."""
        raster = self._raster
        x_edges, y_edges = (raster.edges(int(pixel)) for pixel in corner_px)
        first, last = int(raster.first(corner_px)[1]), int(raster.last(corner_px)[1])
        begun = first // raster.overlap * raster.overlap
        self._held = {strip: band for strip, band in self._held.items() if strip >= begun}
        while last not in self._held:
            self._go_on()
        summed = sum(self._held[strip].pool(x_edges, y_edges) for strip in range(first, last + 1))
        per_tile = (raster.side * raster.overlap) ** 2
        return np.asarray(summed / per_tile, np.float32).reshape(N_TILES, -1)

    def _places(self, row: int) -> list[NDArray[np.int64]]:
        """Return the tiles of a row as x, y and width in pixels, (tile, 3), batch by batch."""
        raster = self._raster
        places = np.array([(raster.at_px(c), raster.at_px(row), raster.tile_px) for c in self._columns[row]], np.int64)
        return [places[i : i + self._batch] for i in range(0, len(places), self._batch)]

    def _go_on(self) -> None:
        """Compute the next row of tiles, and with it the strip that it is the last one to lie over."""
        row = next(self._rows)
        features, above, self._above = self._computed(row), self._above, None
        raster = self._raster
        height = raster.at(row + 1) - raster.at(row)
        if raster.overlap == 1:
            self._hold(row, features)
            return
        if above is not None and above[0] == row - 1:
            self._hold(row, features[:height] + above[1])
        self._above = (row, features[height:].copy())  # a view would keep the whole row

    def _hold(self, strip: int, features: NDArray[np.float32]) -> None:
        self._held[strip] = Band.of(features, self._raster.at(strip), self._raster.at(self._extent[0]))

    def _computed(self, row: int) -> NDArray[np.float32]:
        """Return a row's features, those of overlapping tiles added: (row, 1 + column, feature), the first column 0."""
        raster, (left, right) = self._raster, self._extent
        begin = raster.at(left)
        # tiles that no site touches stay zero: nothing is read of them
        features = np.zeros((raster.side, raster.at(right) + raster.side - begin + 1, self._embedder.width), np.float32)
        columns = iter(self._columns[row])
        for _ in self._places(row):
            for tile in self._embedder.embed(next(self._tiles).tiles).cpu().numpy():
                at = raster.at(next(columns)) - begin + 1
                features[:, at : at + raster.side] += tile
        return features


def _n_padded(task: DenseTask, row: int) -> int:
    """Return how many pixels of a site's window lie outside the slide."""
    rows, columns = task.slide.shape
    corner, window_px = task.corners[row], task.geometry.window_px
    inside = np.minimum(corner + window_px, (columns, rows)) - np.maximum(corner, 0)
    return int(window_px**2 - np.prod(np.clip(inside, 0, None)))

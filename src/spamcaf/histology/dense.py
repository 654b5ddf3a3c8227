"""Dense features: the slide goes through the backbone once, and the windows of all sites are averaged of its map.

The last layer of a backbone gives a map of features for a tile, 7 x 7 or 16 x 16 for instance. `embed_map` puts the
maps of a regular grid of tiles together to one map of the slide, as far as windows may reach. `pool_windows` then gives
each of the nine tiles of a site's window the mean of that map over its area, a feature at the border counting by the
part of it that lies inside. So spots and sites between them share all passes, however fine the grid.

The map of a whole slide would not fit into memory. It is computed row by row of tiles, from the top to the bottom, and
read in bands of rows; sites come in the same order, and bands above the current window are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity, FeatureMap
from spamcaf.histology.embedding import Embedder, EmbeddingJob
from spamcaf.histology.features import FeatureKey, Features
from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import N_TILES, TILE_PX, TILES_ACROSS, Stain, WindowGeometry, prefetch_tiles
from spamcaf.histology.tissue import Tissue
from spamcaf.names import Model
from spamcaf.parameters import TileSettings

OVERLAP = 2
"""Tiles over every point along either axis. Features at a tile's border see little around them: with the packaged
network, half overlapping tiles come nearer to the exact features (cosine .80 instead of .72, centred) and still need
far fewer passes."""
DENSE, SIDE = "dense", "features_across_tile"
"""Parts of a feature key's view that mark this mode."""
MAP_BLOCK = 1024
"""Places of the map in a stored block: 2.6 MB at 1280 features."""


def is_dense(tiles: TileSettings, model: str, finetune: int, *, loses_nothing: bool) -> bool:
    """Return whether features are computed in this mode.

    With `tiles.dense` auto they are where that was shown to lose nothing with the backbone, and all else that was asked
    for can be had of a map: one view of a tile, and neither whole windows nor maps for fine-tuning.
    """
    if tiles.dense == "auto":
        return loses_nothing and tiles.views == 1 and model != Model.RELEASED and not finetune
    if tiles.dense and model == Model.RELEASED:
        raise InputError(
            "tiles.dense with fit.model released.",
            "one of them: released uses whole windows, which dense features do not have.",
            "Set tiles.dense to false, or fit.model to spamcaf.",
        )
    return tiles.dense


def map_side(backbone: Backbone) -> int:
    """Return how many features of the last layer lie across a tile; raise InputError where there is no such map."""
    network = FeatureMap(backbone.network)
    parameter = next(backbone.network.parameters(), torch.empty(0))
    try:
        with torch.inference_mode():
            tile = torch.zeros(1, 3, TILE_PX, TILE_PX, device=parameter.device, dtype=parameter.dtype)
            return int(network(tile).shape[1])
    except TypeError as error:
        raise InputError(
            f"backbone {backbone.identity.name} with tiles.dense: {error}.",
            "a vision transformer or a convolutional network of timm's.",
            "Set tiles.dense to false, or choose another backbone.",
        ) from error


def dense_view(side: int) -> dict[str, object]:
    """Return the part of a feature key's view that tells of this mode."""
    how = (
        f"map of the last layer on a raster from the slide's corner, {OVERLAP} x {OVERLAP} tiles over a place, float16"
    )
    return {DENSE: how, SIDE: side}


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

    def cells(self, corners_px: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the crossings of strips under windows from (site, 2), x and y: (cell, 2), row and column, sorted."""
        if not len(corners_px):
            return np.empty((0, 2), np.int64)
        first, last = self.strips(corners_px[:, ::-1])
        after, origin = last + 1, first.min(axis=0)
        # how many windows touch each cell: +1 and -1 at the corners of each rectangle, summed along both axes, take one
        # step per site where filling rectangles would take one per cell of each
        count = np.zeros(after.max(axis=0) - origin + 1, np.int64)
        for (rows, row_sign), (columns, column_sign) in product(((first, 1), (after, -1)), repeat=2):
            np.add.at(count, (rows[:, 0] - origin[0], columns[:, 1] - origin[1]), row_sign * column_sign)
        return np.argwhere(count.cumsum(axis=0).cumsum(axis=1) > 0) + origin

    def tiles(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tiles over `cells` (cell, 2): (tile, 2), row and column, sorted."""
        back = np.array(list(product(range(self.overlap), repeat=2)), np.int64)
        return np.unique((cells[:, None] - back).reshape(-1, 2), axis=0)

    def places(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the features inside `cells` (cell, 2): (place, 2), row and column from the slide's corner, sorted."""
        parts = [np.empty((0, 2), np.int64)]
        for row in np.unique(cells[:, 0]):
            columns = [np.arange(self.at(c), self.at(c + 1)) for c in cells[cells[:, 0] == row, 1].tolist()]
            inside = np.concatenate(columns)
            for line in range(self.at(int(row)), self.at(int(row) + 1)):
                parts.append(np.column_stack([np.full(len(inside), line), inside]))
        return np.concatenate(parts)


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
    """A backbone whose `embed` gives its last map, (tile, row, column, feature)."""

    def __init__(
        self, backbone: Backbone, device: torch.device, dtype: torch.dtype, batch: int, *, is_compiled: bool = False
    ) -> None:
        mapped = replace(backbone, network=FeatureMap(backbone.network))
        super().__init__(mapped, device, dtype, batch, is_compiled=is_compiled)
        # of a vision transformer with pooled tokens fewer than `backbone.width`
        self.width = int(self.embed(np.zeros((1, TILE_PX, TILE_PX, 3), np.uint8)).shape[-1])


@dataclass(frozen=True, kw_only=True)
class SlideMapJob(EmbeddingJob):
    """The places of a slide's map to compute, in the role of sites: one feature each, row by row."""

    grid: FeatureGrid
    cells: NDArray[np.int64]  # (cell, 2), crossings of the grid's strips
    places: NDArray[np.int64]  # (place, 2), row and column of the map

    unit = "places"

    @classmethod
    def of(
        cls,
        slide: Slide,
        geometry: WindowGeometry,
        side: int,
        centres_px: NDArray[np.float64],
        identity: BackboneIdentity,
        pixels: str,
        view: dict[str, object],
        stain: Stain | None = None,
        overlap: int = OVERLAP,
        block: int = MAP_BLOCK,
    ) -> Self:
        """Return the job of all that windows around `centres_px`, (site, 2) full-resolution pixels, touch.

        `pixels` names the slide and its stains in the key, `view` is how tiles are seen.
        """
        grid = FeatureGrid(geometry.tile_px, side, min(overlap, side))  # a map of one feature cannot be halved
        cells = grid.cells(geometry.corners(centres_px))
        places = grid.places(cells)
        xy_px = (places[:, ::-1] + 0.5) * geometry.tile_px / side
        ids = [f"{row}_{column}" for row, column in places.tolist()]
        key = FeatureKey.of(pixels, identity, view, geometry.window_px, ids, xy_px)
        key = replace(key, block=block)
        return cls(slide, geometry, ids, xy_px, key, stain=stain, grid=grid, cells=cells, places=places)

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Places are in order."""
        return np.arange(len(self.ids))


def reachable_px(tissue: Tissue, spots_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points, (point, 2) full-resolution pixels, between which every site on tissue lies, and the spots.

    What windows around two points touch holds what a window between them touches: the corners of mask pixels do.
    """
    row, column = np.nonzero(tissue.mask)
    corners = [np.column_stack([column + x, row + y]) for x, y in product((0, 1), repeat=2)]
    return np.concatenate([np.unique(np.concatenate(corners), axis=0) * tissue.px_per_mask_px, spots_px])


def embed_map(job: SlideMapJob, embedder: DenseEmbedder, starts: Sequence[int], threads: int) -> Iterator[Features]:
    """Yield the blocks of the map at `starts`, ascending, while `threads` threads prepare the next tiles.

    `windows` of a block is (place, 1, feature) float16. What is computed of a row of tiles depends on all places of the
    job, not on `starts`, so that a run that was cut off gives the same.
    """
    strips = _Strips(job, embedder, starts, threads)
    for start in starts:
        places = job.places[job.rows(start)]
        values = np.empty((len(places), 1, embedder.width), np.float16)
        for row in np.unique(places[:, 0]):
            here = places[:, 0] == row
            values[here, 0] = strips.line(int(row))[places[here, 1] - strips.left]
        yield Features(job.ids_at(start), values, np.zeros(len(places), np.int64), job.key, len(job.ids), start)


class _Strips:
    """Strips of the map, computed from the top to the bottom; columns count from `left`."""

    def __init__(self, job: SlideMapJob, embedder: DenseEmbedder, starts: Sequence[int], threads: int) -> None:
        self._embedder, self._batch, self._grid = embedder, embedder.batch, job.grid
        tiles = job.grid.tiles(job.cells)
        self._columns = {int(row): tiles[tiles[:, 0] == row, 1].tolist() for row in np.unique(tiles[:, 0])}
        self._extent = int(tiles[:, 1].min()), int(tiles[:, 1].max())
        self.left = job.grid.at(self._extent[0])
        asked = np.unique(np.concatenate([job.places[job.rows(start), 0] for start in starts]))
        needed = [
            row for row in self._columns if self._holds(row, asked) or self._holds(row + job.grid.overlap - 1, asked)
        ]
        self._rows = iter(needed)
        ahead = (boxes for row in needed for boxes in self._boxes(row))
        self._tiles = prefetch_tiles(job.slide, ahead, job.stain, threads)
        self._lower: tuple[int, NDArray[np.float32]] | None = None
        self._held: dict[int, NDArray[np.float32]] = {}

    def line(self, row: int) -> NDArray[np.float32]:
        """Return a row of the map, (column, feature); rows have to be asked for in ascending order."""
        grid = self._grid
        strip = row // grid.side * grid.overlap + int(grid.overlap > 1 and row % grid.side >= grid.side // 2)
        self._held = {other: values for other, values in self._held.items() if other >= strip}
        while strip not in self._held:
            self._compute_row()
        return self._held[strip][row - grid.at(strip)]

    def _holds(self, strip: int, rows: NDArray[np.int64]) -> bool:
        first = np.searchsorted(rows, self._grid.at(strip))
        return bool(first < len(rows) and rows[first] < self._grid.at(strip + 1))

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
        self._held[row] = features / np.float32(grid.overlap**2)

    def _map_of(self, row: int) -> NDArray[np.float32]:
        """Return a row's features, those of overlapping tiles added: (row, column, feature)."""
        grid, (_, right) = self._grid, self._extent
        # tiles that no window touches stay zero: nothing is read of them
        features = np.zeros((grid.side, grid.at(right) + grid.side - self.left, self._embedder.width), np.float32)
        columns = iter(self._columns[row])
        for batch in islice(self._tiles, -(-len(self._columns[row]) // self._batch)):
            for tile in self._embedder.embed(batch.tiles).cpu().numpy():
                at = grid.at(next(columns)) - self.left
                features[:, at : at + grid.side] += tile
        return features


class PoolingJob(EmbeddingJob):
    """The sites of a slide whose features are averaged of its map, in order of the map's bands."""

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Sites by the band that their windows begin in, so that each band is read once and few are held."""
        return np.lexsort((self.corners[:, 1], self.corners[:, 0], self.corners[:, 1] // self.geometry.tile_px))

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


def pool_windows(slide_map: Features, job: PoolingJob, done: set[int]) -> Iterator[Features]:
    """Yield the features of a job's sites, averaged of the slide's map, in blocks.

    Parameters
    ----------
    slide_map
        Of `embed_map`, whole.
    job
        Sites and windows.
    done
        Starts of blocks that are stored already and are left out.

    Raises
    ------
    InputError
        Where the map is of another slide, backbone or view.
    """
    slide_map.key.require_same_source(job.key)
    missing = [start for start in job.starts() if start not in done]
    if not missing or not job.ids:
        yield job.mark(slide_map.windows.shape[-1])
        return
    bands = _Bands(slide_map, job.geometry.tile_px)
    for start in missing:
        rows = job.rows(start)
        windows = np.stack([bands.pool(corner) for corner in job.corners[rows]])
        yield Features(job.ids_at(start), windows, job.n_padded[rows], job.key, len(job.ids), start)


class _Bands:
    """Bands of a stored map, each as many rows as lie across a tile, read as windows need them."""

    def __init__(self, slide_map: Features, tile_px: int) -> None:
        side = int(json.loads(slide_map.key.view)[SIDE])
        self._map, self._grid = slide_map, FeatureGrid(tile_px, side)
        places = np.array([name.split("_") for name in slide_map.ids], np.int64).reshape(-1, 2)
        order = np.lexsort((places[:, 1], places[:, 0]))  # of blocks that were stored in any order
        self._order, self._places, self.width = order, places[order], slide_map.windows.shape[-1]
        self._left, right = (int(end) for end in (places[:, 1].min(), places[:, 1].max()))
        self._n_columns = right + 1 - self._left
        self._held: dict[int, Band] = {}

    def pool(self, corner_px: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (9, feature) of the window at (x, y); windows have to come by the band that they begin in."""
        grid = self._grid
        x_edges, y_edges = (grid.edges(int(pixel)) for pixel in corner_px)
        first, last = (int(strip[1]) for strip in grid.strips(corner_px))
        self._held = {strip: band for strip, band in self._held.items() if strip >= first}
        for strip in range(first, last + 1):
            if strip not in self._held:
                self._held[strip] = self._band(strip)
        summed = sum(self._held[strip].pool(x_edges, y_edges) for strip in range(first, last + 1))
        return np.asarray(summed / grid.side**2, np.float32).reshape(N_TILES, -1)

    def _band(self, strip: int) -> Band:
        top = self._grid.at(strip)
        start, stop = np.searchsorted(self._places[:, 0], [top, top + self._grid.side])
        values = np.zeros((self._grid.side, 1 + self._n_columns, self.width), np.float32)
        row, column = self._places[start:stop].T
        values[row - top, column - self._left + 1] = self._map.windows[self._order[start:stop]][:, 0]
        return Band(values, top, self._left)

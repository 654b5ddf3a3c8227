"""The 3 x 3 tiles around a site: where they lie, and reading them at the backbone's size ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.slide import Slide
from spamcaf.parameters import TileSettings

TILE_PX = 224
"""Width of the backbone's input in pixels."""
TILES_ACROSS = 3
N_TILES = TILES_ACROSS**2
CENTRE = N_TILES // 2
"""Index of the target tile among the nine, row by row."""
RESIZED = "each tile by itself, bilinear with antialias, uint8"
"""Part of the key: a tile depends on nothing but its box, so windows that share a tile share its features."""
AHEAD_BYTES = 128 << 20
"""Most bytes of tiles that wait for the network."""
TILE_BYTES = 3 * TILE_PX**2
Stain = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Stain normalisation: brings the colours of a tile, (row, column, 3), to those of a common stain."""
MIRRORED = 4
"""A turn is a number of quarter turns, 0 to 3, plus this where the tile is mirrored left to right before."""
TURNS = {1: (), 2: (MIRRORED,), 4: range(1, 4), 8: range(1, 8), 12: range(1, 8)}
"""Turns of the target tile beside the tile as it is, by the number of views."""
SHIFTS = {1: (), 2: (), 4: (), 8: (), 12: ((-1, 0), (1, 0), (0, -1), (0, 1))}
"""Shifts of the target tile, x and y in quarters of its width, by the number of views."""


@dataclass(frozen=True)
class WindowGeometry:
    """A window of 3 x 3 tiles, each `tile_px` full-resolution pixels wide; `requested` is the width as it was set.

    Its methods take sites, (site, 2), x and y in full-resolution pixels, and return boxes: x and y of the upper left
    pixel, and width, int64. The target tile's features are the mean over `views` of it: 1, 2, 4, 8 or 12.
    """

    tile_px: int
    requested: str
    views: int = 1

    @classmethod
    def of(cls, tiles: TileSettings, mpp: float) -> WindowGeometry:
        """Return the geometry at `mpp` micrometres per pixel; `pixels` takes the backbone's 224 as they are."""
        if tiles.unit == "pixels":
            return cls(TILE_PX, f"{TILE_PX} px", tiles.views)
        return cls(max(round(tiles.tile_um / mpp), 1), f"{tiles.tile_um:g} um", tiles.views)

    @property
    def window_px(self) -> int:
        """Width of the window, full-resolution pixels."""
        return TILES_ACROSS * self.tile_px

    def view(self) -> dict[str, object]:
        """Return the part of a feature key that tells how tiles are cut, the same for every section."""
        cut = {"tile": self.requested, "tile_px": TILE_PX, "tiles_across": TILES_ACROSS, "resized": RESIZED}
        # without further views as in earlier versions: features that are stored stay valid
        return cut if self.views == 1 else {**cut, "target": f"mean over {self.views} views"}

    def corners(self, xy_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the upper left pixel (x, y) of the windows around sites, (site, 2) as `xy_px`."""
        # not to the even pixel: sites of a lattice would lose the tiles that they share
        return np.floor(xy_px - self.window_px / 2 + 0.5).astype(np.int64)

    def tiles(self, xy_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the boxes of the nine tiles around each site, (site, 9, 3), row by row."""
        row, column = np.divmod(np.arange(N_TILES), TILES_ACROSS)
        steps = np.column_stack([column, row, np.zeros_like(row)]) * self.tile_px
        first = np.column_stack([self.corners(xy_px), np.full(len(xy_px), self.tile_px)])
        return first[:, None] + steps

    def windows(self, xy_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the box of the whole window around each site, (site, 1, 3)."""
        return np.column_stack([self.corners(xy_px), np.full(len(xy_px), self.window_px)])[:, None]

    def target_views(self, xy_px: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the views of each site's target tile, without the tile as it is: boxes with turns, (site, view, 4).

        A shift is a quarter of the tile's width, to the nearest pixel (half a pixel up), the same to all four sides.
        """
        quarter_px = (self.tile_px + 2) // 4
        turns = [(0, 0, 0, turn) for turn in TURNS[self.views]]
        shifts = [(x * quarter_px, y * quarter_px, 0, 0) for x, y in SHIFTS[self.views]]
        changes = np.array(turns + shifts, np.int64).reshape(-1, 4)
        return with_turn(self.tiles(xy_px)[:, [CENTRE]]) + changes


def with_turn(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return boxes, (site, box, 3), with the turn 0 as a fourth column."""
    return np.pad(boxes, ((0, 0), (0, 0), (0, 1)))


@dataclass(frozen=True)
class TileBatch:
    """Tiles ready for the network, (tile, 224, 224, 3) uint8, and the padded pixels of each, (tile,)."""

    tiles: NDArray[np.uint8]
    n_padded: NDArray[np.int64]


def read_tile(slide: Slide, x0: int, y0: int, width: int) -> tuple[NDArray[np.uint8], int]:
    """Return the square from pixel (x0, y0) on as (224, 224, 3) uint8, and how many pixels of the slide are padding."""
    import torch

    square, n_padded = slide.read(x0, y0, width, width)
    if width == TILE_PX:
        return square, n_padded
    # antialias: a slide of finer pixels than the backbone's must not alias into texture that is not there. On uint8,
    # torch took a quarter of the time of Pillow or of float32 (448 -> 224 px: 0.6, 2.2 and 2.8 ms), and it lets other
    # threads run meanwhile
    pixels = torch.from_numpy(np.ascontiguousarray(square)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, (TILE_PX, TILE_PX), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy(), n_padded


def turned(tile: NDArray[np.uint8], turn: int = 0) -> NDArray[np.uint8]:
    """Return (row, column, 3) mirrored and turned as `turn` tells."""
    return np.rot90(tile[:, ::-1] if turn >= MIRRORED else tile, turn % MIRRORED)


def read_tiles(slide: Slide, boxes: NDArray[np.int64], stain: Stain | None) -> TileBatch:
    """Read the tiles of `boxes`, (tile, 3), or (tile, 4) with their turns.

    Turns of one square that follow each other are read once.
    """
    tiles = np.empty((len(boxes), TILE_PX, TILE_PX, 3), np.uint8)
    n_padded = np.empty(len(boxes), np.int64)
    for square, same in groupby(range(len(boxes)), key=boxes[:, :3].tolist().__getitem__):
        tile, n = read_tile(slide, *square)
        tile = tile if stain is None else stain(tile)
        for i in same:
            tiles[i], n_padded[i] = turned(tile, *boxes[i, 3:].tolist()), n
    return TileBatch(tiles, n_padded)


def reading_order(xy_px: NDArray[np.float64], band_px: int) -> NDArray[np.intp]:
    """Return the order of sites, (site, 2), in bands `band_px` high, left to right: windows share what is decoded."""
    return np.lexsort((xy_px[:, 1], xy_px[:, 0], np.floor(xy_px[:, 1] / band_px)))


def distinct(boxes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return the distinct rows of (box, 3 or 4) in the order they first come, and the index among them of each row."""
    _, first, inverse = np.unique(boxes, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return boxes[first[order]], np.argsort(order)[inverse.ravel()]


def prefetch_tiles(
    slide: Slide, batches: Iterable[NDArray[np.int64]], stain: Stain | None, threads: int
) -> Iterator[TileBatch]:
    """Yield the tiles of each batch of boxes, in order, read by `threads` threads while the caller computes.

    With no threads a batch is read when it is needed. What waits is bounded in number and in bytes.
    """
    if threads == 0:
        yield from (read_tiles(slide, boxes, stain) for boxes in batches)
        return
    waiting: deque[Future[TileBatch]] = deque()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
    try:
        for boxes in batches:
            waiting.append(executor.submit(read_tiles, slide, boxes, stain))
            while len(waiting) > max(min(2 * threads, AHEAD_BYTES // (len(boxes) * TILE_BYTES)), 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)

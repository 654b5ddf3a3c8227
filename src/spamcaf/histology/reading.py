"""What is read of a slide, and in which order: each place once, neighbours together, ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.backbone import TILE_PX
from spamcaf.histology.tiles import read_tile

if TYPE_CHECKING:
    from spamcaf.histology.slide import Slide

AHEAD_BYTES = 128 << 20
"""Most bytes of tiles that wait for the network."""
TILE_BYTES = 3 * TILE_PX**2


class Stain(Protocol):
    """What turns the colours of a tile, (row, column, 3) uint8, into those of a common stain."""

    def __call__(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the tile in the common stain."""


@dataclass(frozen=True)
class Prepared:
    """Tiles ready for the network, (tile, 224, 224, 3) uint8, and the padded pixels of each, (tile,)."""

    tiles: NDArray[np.uint8]
    n_padded: NDArray[np.int64]


def reading_order(xy_px: NDArray[np.float64], band_px: int) -> NDArray[np.intp]:
    """Return the order in which sites are read: in bands of a height, from left to right in each.

    What successive windows need of a file's strips or tiles is then still decoded: neighbours share them. Sites of one
    place stay in their own order, so the order is the same every time.
    """
    band = np.floor(xy_px[:, 1] / band_px)
    return np.lexsort((xy_px[:, 1], xy_px[:, 0], band))


def distinct(places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Return the distinct rows of (place, 3) in the order they first come, and which of them each row is."""
    _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return places[np.sort(first)], rank[inverse.ravel()]


def prepare(slide: Slide, places: NDArray[np.int64], stain: Stain | None) -> Prepared:
    """Read the tiles at `places`, (tile, 3): x, y and width in full-resolution pixels."""
    tiles = np.empty((len(places), TILE_PX, TILE_PX, 3), np.uint8)
    n_padded = np.empty(len(places), np.int64)
    for i, (x0, y0, width) in enumerate(places.tolist()):
        tile, n_padded[i] = read_tile(slide, x0, y0, width)
        tiles[i] = tile if stain is None else stain(tile)
    return Prepared(tiles, n_padded)


def prepared_ahead(
    slide: Slide, batches: Iterable[NDArray[np.int64]], stain: Stain | None, threads: int
) -> Iterator[Prepared]:
    """Yield the tiles of each batch of places, in order, read by `threads` threads while the caller computes.

    With no threads a batch is read when it is asked for. What waits is bounded in number and in bytes.
    """
    if threads == 0:
        yield from (prepare(slide, places, stain) for places in batches)
        return
    waiting: deque[Future[Prepared]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
    try:
        for places in batches:
            waiting.append(pool.submit(prepare, slide, places, stain))
            while len(waiting) > max(min(2 * threads, AHEAD_BYTES // (len(places) * TILE_BYTES)), 1):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

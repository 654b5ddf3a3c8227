"""A picture shrunk by area averaging while it passes strip by strip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def area_weights(n_from: int, n_to: int) -> sparse.csr_matrix:
    """Return (n_to, n_from) weights: the share of each source pixel in each target pixel, rows summing to 1."""
    edges = np.union1d(np.arange(n_from + 1), np.arange(n_to + 1) * n_from / n_to)
    middle, length = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    source = np.minimum(middle.astype(np.int64), n_from - 1)
    target = np.minimum((middle * n_to / n_from).astype(np.int64), n_to - 1)
    return sparse.csr_matrix((length * n_to / n_from, (target, source)), shape=(n_to, n_from))


def shrunk(strips: Iterable[NDArray[np.uint8]], size: tuple[int, int], longest: int) -> NDArray[np.uint8]:
    """Return the picture of `size` (rows, columns) with its longer side at most `longest` px, never enlarged.

    `strips` are its (row, column, RGB) rows from the top, in pieces of any height; only one is held at a time.
    """
    scale = min(1.0, longest / max(size))
    rows, columns = (area_weights(n, max(1, round(n * scale))) for n in size)
    total = np.zeros((rows.shape[0], columns.shape[0] * 3))
    down, top = rows.tocsc(), 0
    for strip in strips:
        tall = strip.astype(np.float32).transpose(1, 0, 2).reshape(size[1], -1)  # (column, row x RGB)
        narrow = (columns @ tall).reshape(columns.shape[0], len(strip), 3).transpose(1, 0, 2)
        total += down[:, top : top + len(strip)] @ narrow.reshape(len(strip), -1)
        top += len(strip)
    return np.rint(total).astype(np.uint8).reshape(rows.shape[0], columns.shape[0], 3)

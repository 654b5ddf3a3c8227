"""Counting lattice steps from spot to spot, so that a slow bend of the section does no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.sections.lattice_links import fits, nearest_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamcaf.sections.lattice import LatticeKind


def walk(
    xy_px: NDArray[np.float64], links: NDArray[np.int64], basis: NDArray[np.float64], kind: LatticeKind
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count steps from spot to spot along the surest links; return them (spot, 2), and the piece of each spot."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    n = len(xy_px)
    _, miss, good = fits(xy_px[links[:, 1]] - xy_px[links[:, 0]], basis, kind)
    tree = minimum_spanning_tree(csr_matrix((1 + miss[good], tuple(links[good].T)), shape=(n, n)))
    piece = connected_components(tree, directed=False)[1].astype(np.int64)
    starts = np.unique(piece, return_index=True)[1]
    one, other = tree.nonzero()
    # one more place, linked to the start of every piece, makes a single tree of them
    ends = (np.append(one, np.full(len(starts), n)), np.append(other, starts))
    whole = csr_matrix((np.ones(len(ends[0])), ends), shape=(n + 1, n + 1))
    before = breadth_first_order(whole, n, directed=False)[1][:n].astype(np.int64)
    before[starts] = starts
    steps = nearest_steps(xy_px - xy_px[before], basis, kind)
    while (before != before[before]).any():
        steps, before = steps + steps[before], before[before]
    return steps, piece


def join(
    xy_px: NDArray[np.float64], steps: NDArray[np.int64], piece: NDArray[np.int64], kind: LatticeKind
) -> NDArray[np.int64]:
    """Count the steps of every piece from the origin of the largest one, by extending their common lattice."""
    size = np.bincount(piece)
    if len(size) == 1:
        return steps

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.bincount(piece, column) / size for column in values.T])

    mean_xy, mean_steps = means(xy_px), means(steps.astype(float))
    basis = np.linalg.lstsq(steps - mean_steps[piece], xy_px - mean_xy[piece], rcond=None)[0]
    origin = mean_xy - mean_steps @ basis
    shift = nearest_steps(origin - origin[size.argmax()], basis.astype(np.float64), kind)
    joined: NDArray[np.int64] = steps + shift[piece]
    return joined

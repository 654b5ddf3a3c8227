"""The lattice that spots lie on, found from their coordinates alone, with an index for every spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.sections.lattice import INDEX_STEPS, Lattice, LatticeKind, fit_lattice
from spamcaf.sections.lattice_links import first_basis, link, nearest_steps, refine
from spamcaf.sections.lattice_walk import join, walk
from spamcaf.sections.spread import no_lattice, require_spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROUNDS = 20
DISORDER = 0.3
"""Points at random lie about this many pitches from the places of a lattice; spots jittered by 0.1 lie within 0.15."""


@dataclass(frozen=True)
class FoundLattice:
    """A lattice found in coordinates.

    `index` (spot, 2) holds (array_col, array_row), as `INDEX_STEPS` counts them: columns advance along x and rows along
    y as nearly as the lattice allows, from 0; on a hexagonal lattice their sum is even. `piece` (spot,) numbers the
    pieces of the section that stand apart.
    """

    lattice: Lattice
    index: NDArray[np.int64]
    piece: NDArray[np.int64]

    @property
    def n_doubled(self) -> int:
        """How many spots have an index that another spot has too."""
        counts = np.unique(self.index, axis=0, return_counts=True)[1]
        return int(counts[counts > 1].sum())


def find_lattice(xy_px: NDArray[np.float64]) -> FoundLattice:
    """Find the lattice of spots at `xy_px` (spot, 2), pixels, and number them.

    Rotation, mirror and scale are free; jitter up to 0.1 pitches, half of the spots missing and several pieces do no
    harm. Raises InputError when there is no lattice, or two spots on one of its places.
    """
    found = search_lattice(xy_px)
    if found.lattice.residual > DISORDER:
        raise no_lattice()
    if found.n_doubled:
        raise InputError(
            f"{found.n_doubled} spots that share a place on a {found.lattice.kind} lattice, from which the spots lie "
            f"{found.lattice.residual:.2f} pitches away.",
            "one spot per place of a regular lattice.",
            "Check the coordinates: spots are doubled, or in disorder.",
        )
    return found


def search_lattice(xy_px: NDArray[np.float64]) -> FoundLattice:
    """Do what `find_lattice` does, but let spots share a place."""
    usual_px = require_spread(xy_px)
    links = link(xy_px)
    vectors = xy_px[links[:, 1]] - xy_px[links[:, 0]]
    kind, basis = first_basis(vectors, usual_px)
    basis = refine(basis, vectors, kind)
    steps, piece = walk(xy_px, links, basis, kind)
    walked = _found(xy_px, join(xy_px, steps, piece, kind), piece, kind)
    settled = _settle(xy_px, walked)
    # a bent section is numbered right by walking, and wrong by one flat lattice
    return settled if settled.n_doubled < walked.n_doubled else walked


def _settle(xy_px: NDArray[np.float64], found: FoundLattice) -> FoundLattice:
    """Give every spot the nearest place of the fitted lattice, and fit again, until nothing moves."""
    for _ in range(MAX_ROUNDS):
        lattice = found.lattice
        steps = nearest_steps(xy_px - lattice.origin_px, lattice.basis_px, lattice.kind)
        again = _found(xy_px, steps, found.piece, lattice.kind)
        if (again.index == found.index).all():
            break
        found = again
    return found


def _found(
    xy_px: NDArray[np.float64], steps: NDArray[np.int64], piece: NDArray[np.int64], kind: LatticeKind
) -> FoundLattice:
    index = steps @ INDEX_STEPS[kind]
    first = index.min(axis=0)
    if kind == "hexagonal":
        first[0] -= first.sum() % 2
    index = index - first
    return FoundLattice(fit_lattice(xy_px, index, kind), index, piece)

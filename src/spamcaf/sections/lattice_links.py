"""Links between neighbouring spots, and the kind and basis of the lattice that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.sections.spread import LOWEST_ORDER, direction_order, no_lattice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamcaf.sections.lattice import LatticeKind

N_NEIGHBOURS = 12
"""Neighbours linked to a spot: two rings of a square lattice, so that a half-empty one still hangs together."""
NEAR = 1.25
"""Links up to this many median nearest distances long show the directions of the lattice."""
REACH, SLACK = 2.3, 0.35
"""A link is at most so long, and ends at most so far from a lattice point, in pitches."""
SYMMETRY: dict[LatticeKind, int] = {"hexagonal": 6, "square": 4}
N_REFINEMENTS = 4


def link(xy_px: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return pairs of neighbouring spots, (link, 2)."""
    from scipy.spatial import cKDTree

    k = min(N_NEIGHBOURS, len(xy_px) - 1)
    neighbours = cKDTree(xy_px).query(xy_px, k=k + 1)[1][:, 1:]
    return np.column_stack([np.repeat(np.arange(len(xy_px)), k), neighbours.ravel()])


def first_basis(vectors: NDArray[np.float64], usual_px: float) -> tuple[LatticeKind, NDArray[np.float64]]:
    """Tell the kind by the symmetry of the directions to near neighbours; return it with a rough basis, (2, 2) rows."""
    length = np.linalg.norm(vectors, axis=1)
    near = length < NEAR * usual_px
    order = {kind: direction_order(vectors[near], fold) for kind, fold in SYMMETRY.items()}
    kind = max(order, key=lambda name: abs(order[name]))
    if abs(order[kind]) < LOWEST_ORDER:
        raise no_lattice()
    turn = np.angle(order[kind]) / SYMMETRY[kind] + np.array([0.0, 2 * np.pi / SYMMETRY[kind]])
    return kind, float(np.median(length[near])) * np.column_stack([np.cos(turn), np.sin(turn)])


def refine(basis: NDArray[np.float64], vectors: NDArray[np.float64], kind: LatticeKind) -> NDArray[np.float64]:
    """Fit the basis to the links by least squares, leaving out those that end between lattice points."""
    for _ in range(N_REFINEMENTS):
        steps, _, good = fits(vectors, basis, kind)
        if np.linalg.matrix_rank(steps[good]) < len(basis):
            break
        basis = np.linalg.lstsq(steps[good].astype(float), vectors[good], rcond=None)[0]
    return basis


def fits(
    vectors: NDArray[np.float64], basis: NDArray[np.float64], kind: LatticeKind
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the steps along each link (link, 2), how far they miss its end, in pitches, and whether they may count."""
    pitch = np.linalg.norm(basis, axis=1).mean()
    steps = nearest_steps(vectors, basis, kind)
    miss = np.linalg.norm(vectors - steps @ basis, axis=1) / pitch
    return steps, miss, (miss < SLACK) & (np.linalg.norm(vectors, axis=1) < REACH * pitch) & steps.any(axis=1)


def nearest_steps(offset_px: NDArray[np.float64], basis: NDArray[np.float64], kind: LatticeKind) -> NDArray[np.int64]:
    """Return the whole numbers of basis vectors (n, 2) to the lattice point nearest to each offset (n, 2)."""
    if np.linalg.matrix_rank(basis) < len(basis):
        raise no_lattice()
    exact = offset_px @ np.linalg.inv(basis)
    if kind == "square":
        return np.rint(exact).astype(np.int64)
    # rounding three coordinates of sum 0 and mending the worst finds the nearest point; rounding two does not
    exact = np.column_stack([exact, -exact.sum(axis=1)])
    whole = np.rint(exact)
    worst = np.abs(whole - exact).argmax(axis=1)
    whole[np.arange(len(whole)), worst] -= whole.sum(axis=1)
    return whole[:, :2].astype(np.int64)

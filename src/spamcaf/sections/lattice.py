"""The regular lattice of a section's spots: fitted where array indices are known, found where they are not.

Finding it takes four steps. Spots are linked to their nearest neighbours, and the symmetry of the links' directions
tells hexagonal from square. Least squares over the links refines the two lattice vectors. Steps are counted from spot
to spot along the links. Finally one lattice is fitted to all spots, and each spot takes its nearest lattice point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError

LatticeKind = Literal["hexagonal", "square", "scattered"]
"""Of spots at any place (`scattered`) the lattice is a fiction: square cells as large as a spot has room."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

INDEX_STEPS: dict[str, Integers] = {
    "hexagonal": np.array([[2, 0], [1, 1]], np.int64),
    "square": np.array([[1, 0], [0, 1]], np.int64),
    "scattered": np.array([[1, 0], [0, 1]], np.int64),
}
"""What each lattice vector (row) adds to (array_col, array_row): Visium counts columns in half pitches."""
UNIT_BASIS: dict[str, Floats] = {
    "hexagonal": np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]]),
    "square": np.eye(2),
    "scattered": np.eye(2),
}
"""The two lattice vectors of a perfect lattice of pitch 1, as rows (x, y)."""
_CELL_AREA = {kind: float(np.linalg.det(basis)) for kind, basis in UNIT_BASIS.items()}
_SYMMETRY: dict[LatticeKind, int] = {"hexagonal": 6, "square": 4}

FEWEST_SPOTS = 6  # that a lattice can be found from
TOO_CLOSE = 0.3  # spots closer than this share of the median nearest distance are one spot twice
_LOWEST_ORDER = 0.4  # least agreement of directions between neighbours: 0.7 on a lattice with jitter of 0.1 pitches
_NARROW = 0.5  # spots within a strip of this many nearest distances lie on a line
_N_NEIGHBOURS = 12  # links of a spot: two rings of a square lattice, so that a half-empty one is still connected
_NEAR = 1.25  # links up to this many median nearest distances long show the directions of the lattice
_REACH, _SLACK = 2.3, 0.35  # a link is at most so long, and ends at most so far from a lattice point, in pitches
_N_REFINEMENTS, _MAX_ROUNDS = 4, 20
_DISORDER = 0.3  # residual in pitches: random points have about this one, spots jittered by 0.1 at most 0.15


@dataclass(frozen=True)
class Lattice:
    """A lattice in full-resolution pixels."""

    kind: LatticeKind
    origin_px: Floats  # (x, y) of the point with array indices (0, 0)
    basis_px: Floats  # (2, 2), the two lattice vectors as rows (x, y)
    residual: float  # root mean square distance of the spots from the lattice, in pitches

    @property
    def pitch_px(self) -> float:
        """Distance of neighbouring spots in full-resolution pixels."""
        return float(np.sqrt(abs(np.linalg.det(self.basis_px)) / _CELL_AREA[self.kind]))

    @property
    def skew(self) -> float:
        """How much less it is stretched along one direction than along another, 0 for right lengths and angles."""
        stretch = np.linalg.svd(np.linalg.solve(UNIT_BASIS[self.kind], self.basis_px), compute_uv=False)
        return float(1 - stretch[1] / stretch[0])

    @property
    def mirrored(self) -> bool:
        """Whether columns and rows turn the other way round than x and y do."""
        return bool(np.linalg.det(self.basis_px) < 0)


@dataclass(frozen=True)
class FoundLattice:
    """A lattice found in coordinates, and the array index of each spot.

    Indices count from 0, as `INDEX_STEPS` does: columns advance along x and rows along y as nearly as the lattice
    allows; on a hexagonal lattice their sum is even.
    """

    lattice: Lattice  # fitted to all spots
    index: Integers  # (spot, 2), (array_col, array_row)
    piece: Integers  # (spot,), number of the piece of tissue of each spot, where pieces stand apart

    @property
    def n_doubled(self) -> int:
        """How many spots have an index that another spot has too."""
        counts = np.unique(self.index, axis=0, return_counts=True)[1]
        return int(counts[counts > 1].sum())


def lattice_steps(index: Integers, kind: LatticeKind) -> Integers:
    """Return the whole numbers of the two lattice vectors to each (array_col, array_row) of `index` (spot, 2).

    Columns of a hexagonal array advance by two in a row; where all are one off (row + column odd), they count as the
    column before.
    """
    exact = np.linalg.solve(INDEX_STEPS[kind].T.astype(float), index.T.astype(float)).T
    # the margin keeps rounding error from lowering a whole number by one
    return np.floor(exact + 0.25).astype(np.int64)


def fit_lattice(xy_px: Floats, index: Integers, kind: LatticeKind) -> Lattice:
    """Fit a lattice to spots with known array indices, by least squares: any rotation, reflection and scale is found.

    Parameters
    ----------
    xy_px : (spot, 2) float64, full-resolution pixels
    index : (spot, 2) int64, (array_col, array_row)
    kind : "hexagonal" or "square"; of "scattered" spots the index says nothing

    Raises
    ------
    InputError : when all spots lie on one line
    """
    if kind == "scattered":
        return scattered_lattice(xy_px)
    steps = np.linalg.solve(INDEX_STEPS[kind].T.astype(float), index.T.astype(float)).T
    design = np.column_stack([steps, np.ones(len(steps))])
    coefficients, _, rank, _ = np.linalg.lstsq(design, xy_px, rcond=None)
    if rank < design.shape[1]:
        raise InputError("spots on one line.", "spots in two dimensions.", "Check array_row and array_col.")
    lattice = Lattice(kind, coefficients[2], coefficients[:2], 0.0)
    rms_px = float(np.sqrt(np.mean(np.sum((design @ coefficients - xy_px) ** 2, axis=1))))
    return replace(lattice, residual=rms_px / max(lattice.pitch_px, np.finfo(float).tiny))


def find_lattice(xy_px: Floats) -> FoundLattice:
    """Find the lattice that spots lie on, and the array index of each.

    Rotation, reflection and scale are free. Jitter up to 0.1 pitches, half of the spots missing, several pieces of
    tissue and a slow bend do no harm.

    Parameters
    ----------
    xy_px : (spot, 2) float64, full-resolution pixels

    Raises
    ------
    InputError : when there is no lattice, or when two spots share a lattice point
    """
    found = search_lattice(xy_px)
    if found.lattice.residual > _DISORDER:
        raise _no_lattice()
    if found.n_doubled:
        raise InputError(
            f"{found.n_doubled} spots that share a point of a {found.lattice.kind} lattice, from which the spots lie "
            f"{found.lattice.residual:.2f} pitches away.",
            "one spot per point of a regular lattice.",
            "Check the coordinates: spots are doubled, or in disorder.",
        )
    return found


def search_lattice(xy_px: Floats) -> FoundLattice:
    """Find the lattice of spots as `find_lattice` does, but let spots share a point and lie far from it."""
    usual_px = require_spread(xy_px)
    neighbour = nearest_neighbours(xy_px, min(_N_NEIGHBOURS, len(xy_px) - 1))[1]
    links = np.column_stack([np.repeat(np.arange(len(xy_px)), neighbour.shape[1]), neighbour.ravel()])
    vectors = xy_px[links[:, 1]] - xy_px[links[:, 0]]
    kind, basis = _first_basis(vectors, usual_px)
    basis = _refine(basis, vectors, kind)
    steps, piece = _walk(xy_px, links, basis, kind)
    walked = _found(xy_px, _join(xy_px, steps, piece, kind), piece, kind)
    settled = _settle(xy_px, walked)
    # a bent section is numbered right by walking, and wrong by one flat lattice: there two spots get one index
    return settled if settled.n_doubled < walked.n_doubled else walked


N_ROOM = 6
"""Neighbours from which the room of a scattered spot is estimated."""


def scattered_lattice(xy_px: Floats) -> Lattice:
    """Return what stands for a lattice of spots at any place, (spot, 2): its pitch is the root of the area per spot.

    The circle through a spot's sixth neighbour holds six spots' areas; the median over spots leaves out the outline.
    """
    require_finite(xy_px)
    if len(xy_px) < FEWEST_SPOTS:
        raise InputError(f"{len(xy_px)} spots.", f"at least {FEWEST_SPOTS}.", "Check that the section is whole.")
    to_sixth = np.median(nearest_neighbours(xy_px, min(N_ROOM, len(xy_px) - 1))[0][:, -1])
    pitch_px = float(to_sixth * np.sqrt(np.pi / N_ROOM))
    if not pitch_px > 0:
        raise InputError("most spots at the position of others.", "spots side by side.", "Check the coordinates.")
    return Lattice("scattered", xy_px.min(axis=0), pitch_px * np.eye(2), 0.0)


def nearest_neighbours(xy_px: Floats, k: int) -> tuple[Floats, Integers]:
    """Return distance (spot, k) in pixels and row (spot, k) of the `k` spots nearest to each, itself left out."""
    from scipy.spatial import cKDTree

    distance, row = cKDTree(xy_px).query(xy_px, k=k + 1)
    return distance[:, 1:], row[:, 1:]


def require_finite(xy_px: Floats) -> None:
    """Raise InputError when a coordinate is missing or infinite."""
    if n_missing := int((~np.isfinite(xy_px)).any(axis=1).sum()):
        raise InputError(f"{n_missing} spots without coordinates.", "numbers for all.", "Check the position file.")


def require_spread(xy_px: Floats) -> float:
    """Return the median distance to the nearest spot; InputError unless they are enough, apart, and not on a line."""
    require_finite(xy_px)
    if len(xy_px) < FEWEST_SPOTS:
        raise InputError(f"{len(xy_px)} spots.", f"at least {FEWEST_SPOTS}.", "Check that the section is whole.")
    nearest = nearest_neighbours(xy_px, 1)[0][:, 0]
    usual = float(np.median(nearest))
    is_apart = nearest > TOO_CLOSE * usual
    if not is_apart.all():
        # among single cells or beads some lie close together by chance: "doubled spots" would be the wrong message
        if is_apart.sum() >= FEWEST_SPOTS:
            apart = xy_px[is_apart]
            _require_order(apart[nearest_neighbours(apart, 1)[1][:, 0]] - apart)
        raise InputError(
            f"{int((~is_apart).sum())} of {len(xy_px)} spots at the position of another one.",
            "each spot at its own position.",
            "Check the coordinates, and remove doubled spots; if a file holds several sections, write each to its own.",
        )
    centred = xy_px - xy_px.mean(axis=0)
    across = centred @ np.linalg.eigh(centred.T @ centred)[1][:, 0]
    if np.ptp(across) < _NARROW * usual:
        raise InputError("spots on one line.", "spots in two dimensions.", "Check that both coordinates are given.")
    return usual


def _no_lattice() -> InputError:
    return InputError(
        "spots on no lattice: their distances and directions are irregular, as those of single cells or beads are.",
        "a hexagonal or a square lattice.",
        "Check the coordinates. If the spots really lie on no lattice, as beads of Slide-seq: --params "
        "section_checks.scattered=true,section_checks.mpp=<um per unit of the coordinates>.",
    )


def _require_order(vectors: Floats) -> tuple[LatticeKind, float]:
    """Return the kind that the directions of vectors (n, 2) show, and the angle of one; InputError where none.

    Evidence is the bond-orientational order parameter, the mean of exp(i fold angle): its modulus is 1 where all angles
    agree modulo a whole turn / fold, and near 0 for random directions.
    """
    angle = np.arctan2(vectors[:, 1], vectors[:, 0])
    order = {kind: complex(np.exp(1j * fold * angle).mean()) for kind, fold in _SYMMETRY.items()}
    kind = max(order, key=lambda name: abs(order[name]))
    if abs(order[kind]) < _LOWEST_ORDER:
        raise _no_lattice()
    return kind, float(np.angle(order[kind]) / _SYMMETRY[kind])


def _first_basis(vectors: Floats, usual_px: float) -> tuple[LatticeKind, Floats]:
    """Return the kind with the higher order of directions, and a rough basis (2, 2) by mean direction and length."""
    length = np.linalg.norm(vectors, axis=1)
    # 1.25 pitches: nearest neighbours with their jitter, but not the diagonals of a square lattice (1.41)
    near = length < _NEAR * usual_px
    kind, angle = _require_order(vectors[near])
    turn = angle + np.array([0.0, 2 * np.pi / _SYMMETRY[kind]])
    return kind, float(np.median(length[near])) * np.column_stack([np.cos(turn), np.sin(turn)])


def _refine(basis: Floats, vectors: Floats, kind: LatticeKind) -> Floats:
    """Fit the basis to the links by least squares, a few times over."""
    for _ in range(_N_REFINEMENTS):
        # a better basis explains more links, and those over two pitches fix its length and angle best
        steps, _, good = _fits(vectors, basis, kind)
        if np.linalg.matrix_rank(steps[good]) < len(basis):
            break
        basis = np.linalg.lstsq(steps[good].astype(float), vectors[good], rcond=None)[0]
    return basis


def _fits(vectors: Floats, basis: Floats, kind: LatticeKind) -> tuple[Integers, Floats, Booleans]:
    """Return the steps along each link (link, 2), how far they miss its end, in pitches, and whether it is used."""
    pitch = np.linalg.norm(basis, axis=1).mean()
    steps = _nearest_steps(vectors, basis, kind)
    miss = np.linalg.norm(vectors - steps @ basis, axis=1) / pitch
    # a link that ends between lattice points is of a stray spot, a long one crosses a gap between pieces of tissue
    return steps, miss, (miss < _SLACK) & (np.linalg.norm(vectors, axis=1) < _REACH * pitch) & steps.any(axis=1)


def _nearest_steps(offset_px: Floats, basis: Floats, kind: LatticeKind) -> Integers:
    """Return the whole numbers of basis vectors (n, 2) to the lattice point nearest to each offset (n, 2)."""
    if np.linalg.matrix_rank(basis) < len(basis):
        raise _no_lattice()
    exact = offset_px @ np.linalg.inv(basis)
    if kind == "square":
        return np.rint(exact).astype(np.int64)
    # hexagonal cells are no parallelograms: rounding two coordinates may miss the nearest point, rounding three of sum
    # 0 (cube coordinates) and mending the worst finds it
    exact = np.column_stack([exact, -exact.sum(axis=1)])
    whole = np.rint(exact)
    worst = np.abs(whole - exact).argmax(axis=1)
    whole[np.arange(len(whole)), worst] -= whole.sum(axis=1)
    return whole[:, :2].astype(np.int64)


def _walk(xy_px: Floats, links: Integers, basis: Floats, kind: LatticeKind) -> tuple[Integers, Integers]:
    """Count steps (spot, 2) from the first spot of each piece; return them and the piece (spot,) of each spot.

    Only steps between linked spots are rounded to whole numbers. A slow bend may add up to several pitches over the
    section, where rounding by one global lattice fails, but it hardly shows between neighbours.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    n = len(xy_px)
    _, miss, good = _fits(xy_px[links[:, 1]] - xy_px[links[:, 0]], basis, kind)
    # links that end near a lattice point come first: the tree goes round stray and jittered spots
    tree = minimum_spanning_tree(csr_matrix((1 + miss[good], tuple(links[good].T)), shape=(n, n)))
    piece = connected_components(tree, directed=False)[1].astype(np.int64)
    starts = np.unique(piece, return_index=True)[1]
    one, other = tree.nonzero()
    # a virtual node n, linked to the start of every piece, makes one tree of them: one breadth-first search for all
    ends = (np.append(one, np.full(len(starts), n)), np.append(other, starts))
    whole = csr_matrix((np.ones(len(ends[0])), ends), shape=(n + 1, n + 1))
    before = breadth_first_order(whole, n, directed=False)[1][:n].astype(np.int64)
    before[starts] = starts
    steps = _nearest_steps(xy_px - xy_px[before], basis, kind)
    # pointer doubling sums the steps from each spot back to its start, in log2(depth) rounds instead of a loop of spots
    while (before != before[before]).any():
        steps, before = steps + steps[before], before[before]
    return steps, piece


def _join(xy_px: Floats, steps: Integers, piece: Integers, kind: LatticeKind) -> Integers:
    """Count the steps of every piece from the origin of the largest one, by extending their common lattice."""
    size = np.bincount(piece)
    if len(size) == 1:
        return steps
    # pieces share the basis, fitted within each about its own mean, and differ by their origin
    mean_xy, mean_steps = piece_means(xy_px, piece), piece_means(steps.astype(float), piece)
    basis = np.linalg.lstsq(steps - mean_steps[piece], xy_px - mean_xy[piece], rcond=None)[0]
    origin = mean_xy - mean_steps @ basis
    return np.asarray(steps + _nearest_steps(origin - origin[size.argmax()], basis.astype(np.float64), kind)[piece])


def piece_means(values: Floats, piece: Integers) -> Floats:
    """Return the mean (piece, column) of the values (spot, column) of each piece of tissue."""
    size = np.bincount(piece)
    return np.column_stack([np.bincount(piece, column) / size for column in values.T])


def _settle(xy_px: Floats, found: FoundLattice) -> FoundLattice:
    """Give every spot the nearest point of the fitted lattice, and fit again, until nothing moves."""
    for _ in range(_MAX_ROUNDS):
        lattice = found.lattice
        steps = _nearest_steps(xy_px - lattice.origin_px, lattice.basis_px, lattice.kind)
        again = _found(xy_px, steps, found.piece, lattice.kind)
        if (again.index == found.index).all():
            break
        found = again
    return found


def _found(xy_px: Floats, steps: Integers, piece: Integers, kind: LatticeKind) -> FoundLattice:
    index = steps @ INDEX_STEPS[kind]
    first = index.min(axis=0)
    if kind == "hexagonal":
        first[0] -= first.sum() % 2  # Visium's array_row + array_col is even
    index = index - first
    return FoundLattice(fit_lattice(xy_px, index, kind), index, piece)

"""The regular lattice that a section's spots lie on, found from their coordinates and fitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError

FEWEST = 6
"""Spots from which a lattice can be told."""
TOO_CLOSE = 0.3
"""Spots closer than this share of the median nearest distance are one spot twice."""
LOWEST_ORDER = 0.4
"""Least agreement of the directions between neighbours, 0 to 1: 0.7 on a lattice with jitter of 0.1 pitches."""
NARROW = 0.5
"""An array narrower than this share of it is a line."""


def require_finite(xy_px: NDArray[np.float64]) -> None:
    """Raise InputError when a coordinate is missing or infinite."""
    n_missing = int((~np.isfinite(xy_px)).any(axis=1).sum())
    if n_missing:
        raise InputError(f"{n_missing} spots without coordinates.", "numbers for all.", "Check the position file.")


def require_spread(xy_px: NDArray[np.float64]) -> float:
    """Return the median distance to the nearest spot, pixels; raise InputError unless spots stand apart in a plane.

    `xy_px` is (spot, 2).
    """
    from scipy.spatial import cKDTree

    require_finite(xy_px)
    if len(xy_px) < FEWEST:
        raise InputError(f"{len(xy_px)} spots.", f"at least {FEWEST}.", "Check that the section is whole.")
    nearest = cKDTree(xy_px).query(xy_px, k=2)[0][:, 1]
    usual = float(np.median(nearest))
    n_twice = int((nearest <= TOO_CLOSE * usual).sum())
    if n_twice:
        _require_order(xy_px[nearest > TOO_CLOSE * usual])
        raise InputError(
            f"{n_twice} of {len(xy_px)} spots at the place of another one.",
            "each spot at its own place.",
            "Check the coordinates, and remove doubled spots; if a file holds several sections, write each to its own.",
        )
    _require_two_dimensions(xy_px, usual)
    return usual


def no_lattice() -> InputError:
    """Return the error for spots at places of no regular array."""
    return InputError(
        "spots on no lattice: their distances and directions are irregular, as those of single cells or beads are.",
        "a hexagonal or a square lattice.",
        "Check the coordinates; of spatial data only spot arrays (Visium, Visium HD, ST) can be used.",
    )


def direction_order(vectors: NDArray[np.float64], fold: int) -> complex:
    """Return the mean of exp(i fold angle) of vectors (n, 2).

    Its modulus is 1 where all angles agree modulo a whole turn / `fold`, and near 0 for random directions.
    """
    return complex(np.exp(1j * fold * np.arctan2(vectors[:, 1], vectors[:, 0])).mean())


def _require_order(xy_px: NDArray[np.float64]) -> None:
    """Raise InputError where spots, those too close to another left out, point in all directions: none are doubled."""
    from scipy.spatial import cKDTree

    if len(xy_px) < FEWEST:
        return
    nearest = cKDTree(xy_px).query(xy_px, k=2)[1][:, 1]
    vectors = xy_px[nearest] - xy_px
    if max(abs(direction_order(vectors, fold)) for fold in (4, 6)) < LOWEST_ORDER:
        raise no_lattice()


def _require_two_dimensions(xy_px: NDArray[np.float64], usual: float) -> None:
    centred = xy_px - xy_px.mean(axis=0)
    across = centred @ np.linalg.eigh(centred.T @ centred)[1][:, 0]
    if np.ptp(across) < NARROW * usual:
        raise InputError("spots on one line.", "spots in two dimensions.", "Check that both coordinates are given.")


LatticeKind = Literal["hexagonal", "square"]

# how array columns and rows advance along the two shortest lattice vectors; Visium counts columns in half pitches
INDEX_STEPS: dict[str, NDArray[np.int64]] = {
    "hexagonal": np.array([[2, 0], [1, 1]], np.int64),
    "square": np.array([[1, 0], [0, 1]], np.int64),
}
UNIT_BASIS: dict[str, NDArray[np.float64]] = {
    "hexagonal": np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]]),
    "square": np.eye(2),
}
"""The two lattice vectors of a perfect lattice of pitch 1, as rows (x, y)."""
CELL_AREA = {kind: float(np.linalg.det(basis)) for kind, basis in UNIT_BASIS.items()}
"""Area of a lattice cell in squared pitches."""


@dataclass(frozen=True)
class Lattice:
    """A lattice in full-resolution pixels.

    `basis_px` (2, 2) holds the two lattice vectors as rows (x, y), `index_steps` (2, 2) what they add to
    (array_col, array_row). `residual` is the RMS distance of the spots from it, in pitches.
    """

    kind: LatticeKind
    origin_px: NDArray[np.float64]
    basis_px: NDArray[np.float64]
    residual: float

    @property
    def index_steps(self) -> NDArray[np.int64]:
        """See the class."""
        return INDEX_STEPS[self.kind]

    @property
    def pitch_px(self) -> float:
        """Distance of neighbouring spots in full-resolution pixels."""
        return float(np.sqrt(abs(np.linalg.det(self.basis_px)) / CELL_AREA[self.kind]))

    @property
    def skew(self) -> float:
        """How much less it is stretched along one direction than along another, 0 for right lengths and angles."""
        stretch = np.linalg.svd(np.linalg.solve(UNIT_BASIS[self.kind], self.basis_px), compute_uv=False)
        return float(1 - stretch[1] / stretch[0])

    @property
    def mirrored(self) -> bool:
        """Whether columns and rows turn the other way round than x and y do."""
        return bool(np.linalg.det(self.basis_px) < 0)


def fit_lattice(xy_px: NDArray[np.float64], index: NDArray[np.int64], kind: LatticeKind) -> Lattice:
    """Fit the lattice by least squares.

    `xy_px` is (spot, 2); `index` (spot, 2) holds (array_col, array_row). Any rotation, mirror and scale is found, since
    the fit is affine. Raises InputError when all spots lie on one line.
    """
    steps = np.linalg.solve(INDEX_STEPS[kind].T.astype(float), index.T.astype(float)).T
    design = np.column_stack([steps, np.ones(len(steps))])
    coefficients, _, rank, _ = np.linalg.lstsq(design, xy_px, rcond=None)
    if rank < design.shape[1]:
        raise InputError("spots on one line.", "spots in two dimensions.", "Check array_row and array_col.")
    lattice = Lattice(kind, coefficients[2], coefficients[:2], 0.0)
    rms_px = float(np.sqrt(np.mean(np.sum((design @ coefficients - xy_px) ** 2, axis=1))))
    return Lattice(kind, lattice.origin_px, lattice.basis_px, rms_px / max(lattice.pitch_px, np.finfo(float).tiny))


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

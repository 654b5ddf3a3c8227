"""The regular lattice that a section's spots lie on, fitted to their coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError

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

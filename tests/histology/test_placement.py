"""Spots on another section's tissue are refused; spots on their own are not, even where tissue is torn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.placement import require_on_tissue
from spamcaf.histology.tissue import Tissue
from spamcaf.sections.lattice import Lattice, fit_lattice

PITCH_PX, MASK_PX = 100.0, 10
SIZE = 30


def tissue(shape: NDArray[np.bool_]) -> Tissue:
    """Tissue where `shape`, one cell per lattice place, is true."""
    mask = np.kron(shape, np.ones((MASK_PX, MASK_PX), bool))
    return Tissue(mask, np.zeros((*mask.shape, 3), np.uint8), PITCH_PX / MASK_PX)


def corner() -> NDArray[np.bool_]:
    """An L in the upper left, unlike any of its mirrors."""
    shape = np.zeros((SIZE, SIZE), bool)
    shape[5:21, 6:11] = True
    shape[16:21, 6:20] = True
    return shape


def spots(shape: NDArray[np.bool_]) -> tuple[NDArray[np.float64], Lattice]:
    row, column = np.nonzero(shape)
    xy = (np.column_stack([column, row]) + 0.5) * PITCH_PX
    return xy, fit_lattice(xy, np.column_stack([column, row]), "square")


def test_spots_on_their_own_tissue_pass() -> None:
    assert require_on_tissue(tissue(corner()), *spots(corner())) == 1


def test_spots_on_part_of_the_tissue_pass() -> None:
    shape = corner()
    shape[:12] = False
    assert require_on_tissue(tissue(corner()), *spots(shape)) == 1


def test_torn_tissue_passes_with_its_share() -> None:
    torn = corner()
    torn[5:8] = False
    share = require_on_tissue(tissue(torn), *spots(corner()))
    assert share == pytest.approx(torn.sum() / corner().sum())
    assert 0.5 < share < 0.9


@pytest.mark.parametrize(
    "other",
    [
        lambda shape: shape.T,
        lambda shape: shape[::-1],
        lambda shape: shape[:, ::-1],
        lambda shape: shape[::-1, ::-1],
        lambda shape: np.roll(shape, 2, axis=1),
        lambda shape: np.roll(shape, (2, -1), axis=(0, 1)),
        np.zeros_like,
    ],
    ids=["transposed", "upside down", "mirrored", "turned", "2 right", "1 left, 2 down", "no tissue"],
)
def test_tissue_elsewhere_is_refused(other: object) -> None:
    with pytest.raises(InputError, match=r"of the spots lie on tissue.*another section"):
        require_on_tissue(tissue(other(corner())), *spots(corner()))

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.spatial import cKDTree

from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import visium_spots


@pytest.mark.parametrize("size", [(1900, 1900), (700, 1300), (60, 60)])
def test_spots_are_a_turned_hexagonal_lattice_with_visium_indices(size: tuple[float, float]) -> None:
    spots, xy = visium_spots(SimulationSettings(width_um=size[0], height_um=size[1]))
    row, col = spots["array_row"].to_numpy(), spots["array_col"].to_numpy()
    assert ((row + col) % 2 == 0).all() and row.min() == 0 and col.min() in {0, 1}
    assert ((xy >= 27.5) & (xy <= np.array(size) - 27.5)).all()
    turned = (xy - xy[0]) @ np.array([np.exp(-1j * np.pi / 180), 1j * np.exp(-1j * np.pi / 180)])
    lattice = 50.0 * (col - col[0]) + 1j * 50 * np.sqrt(3) * (row - row[0])
    np.testing.assert_allclose(turned, lattice, atol=1e-6)


def test_neighbours_are_exactly_a_pitch_apart() -> None:
    _, xy = visium_spots(SimulationSettings())
    distance, _ = cKDTree(xy).query(xy, k=7)
    inner = ((xy > 150) & (xy < 1750)).all(axis=1)
    np.testing.assert_allclose(distance[inner, 1:], 100.0, atol=1e-9)


def test_barcodes_are_unique_and_look_like_10x() -> None:
    spots, _ = visium_spots(SimulationSettings(width_um=6500, height_um=6500))
    assert spots.index.is_unique
    assert all(re.fullmatch("[ACGT]{16}-1", barcode) for barcode in spots.index)


def test_a_picture_smaller_than_a_spot_is_refused() -> None:
    with pytest.raises(InputError, match="width_um"):
        visium_spots(SimulationSettings(width_um=40, height_um=40))

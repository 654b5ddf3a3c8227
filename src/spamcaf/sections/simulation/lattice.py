"""The spots of a Visium slide over a picture: positions, array indices and barcodes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import Position
from spamcaf.parameters import SimulationSettings
from spamcaf.sections.scale import PITCH_UM, SPOT_UM
from spamcaf.sections.simulation.landscape import Stream, generator

TURN_DEGREES = 1.0
"""How far the lattice is rotated against the picture."""


def visium_spots(settings: SimulationSettings) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the spots that lie whole in the picture, row by row, and their (x, y) in micrometres.

    Indexed by barcode, with `array_row` and `array_col`: their sum is even, neighbours in a row are two columns apart.
    """
    reach = int(np.hypot(settings.width_um, settings.height_um) / PITCH_UM) + 2
    row, col = (index.ravel() for index in np.mgrid[-reach : reach + 1, -2 * reach : 2 * reach + 1])
    row, col = (index[(row + col) % 2 == 0] for index in (row, col))
    u, v = col * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2
    cos, sin = np.cos(np.deg2rad(TURN_DEGREES)), np.sin(np.deg2rad(TURN_DEGREES))
    size = np.array([settings.width_um, settings.height_um])
    xy_um = np.stack([u * cos - v * sin, u * sin + v * cos], axis=1) + size / 2
    is_whole = ((xy_um >= SPOT_UM / 2) & (xy_um <= size - SPOT_UM / 2)).all(axis=1)
    row, col, xy_um = row[is_whole], col[is_whole], xy_um[is_whole]
    if not len(row):
        raise InputError(
            f"a simulated picture of {size[0]:g} x {size[1]:g} um.",
            f"room for a spot of {SPOT_UM:g} um at its centre.",
            "Raise width_um and height_um of the simulation.",
        )
    first_col = col.min() - (row.min() + col.min()) % 2
    indices = {Position.ARRAY_ROW.value: row - row.min(), Position.ARRAY_COL.value: col - first_col}
    return pd.DataFrame(indices, index=pd.Index(_barcodes(len(row), settings), name=Position.BARCODE.value)), xy_um


def _barcodes(n: int, settings: SimulationSettings) -> list[str]:
    """Return unique barcodes of 16 letters, in no order."""
    rng = generator(settings, Stream.BARCODES)
    codes = np.zeros(0, dtype=np.int64)
    while len(codes) < n:
        codes = np.unique(np.append(codes, rng.integers(0, 4**16, n)))
    codes = rng.permutation(codes)[:n]
    letters = np.array(list("ACGT"))[(codes[:, None] >> (2 * np.arange(16))) & 3]
    return ["".join(word) + "-1" for word in letters]

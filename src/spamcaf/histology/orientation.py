"""The ways in which coordinates are turned, mirrored or exchanged against their image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWAPPED = "x and y swapped"
TURNS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    SWAPPED: ((0, 1), (1, 0)),
    "left and right exchanged": ((-1, 0), (0, 1)),
    "top and bottom exchanged": ((1, 0), (0, -1)),
    "a turn by 180 degrees": ((-1, 0), (0, -1)),
    "a turn by 90 degrees": ((0, 1), (-1, 0)),
    "a turn by 270 degrees": ((0, -1), (1, 0)),
    "x and y swapped, and a turn by 180 degrees": ((0, -1), (-1, 0)),
}
"""What (x, y) is multiplied with, as a row."""
IN_PLACE = " about the middle of the spots"


@dataclass(frozen=True)
class Orientation:
    """A turn or mirror of the plane: (x, y) @ `turn` + `shift_px`."""

    turn: NDArray[np.int64]
    shift_px: NDArray[np.float64]

    def __call__(self, xy_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the places (n, 2) in this orientation."""
        return xy_px @ self.turn + self.shift_px


def orientations(xy_px: NDArray[np.float64], size_px: tuple[float, float]) -> dict[str, Orientation]:
    """Return every orientation but the given one, by name.

    `xy_px` is (spot, 2), `size_px` (width, height) of the image. Each is given twice: so that it leads into the frame
    of the image, and about the middle of the spots.
    """
    middle = (xy_px.min(axis=0) + xy_px.max(axis=0)) / 2
    turns = {name: np.array(rows) for name, rows in TURNS.items()}
    framed = {name: Orientation(turn, np.where(turn.sum(axis=0) < 0, size_px, 0.0)) for name, turn in turns.items()}
    return framed | {name + IN_PLACE: Orientation(turn, middle - middle @ turn) for name, turn in turns.items()}

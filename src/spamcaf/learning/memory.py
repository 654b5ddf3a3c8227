"""What the Gaussian process knows of spots, and what a model recalls of those that it learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.learning.pictures import HOME, Pictures


@dataclass(frozen=True)
class Memory:
    """What the process knows of spots: pictures and scores, counted from their section's mean.

    All of them speak where nothing was measured, those of other sections also where something was.
    """

    pictures: Pictures
    scores: NDArray[np.float64]  # (spot, program)
    depth: NDArray[np.float64]  # (spot,)
    section: NDArray[np.int64]  # (spot,), 0 for the section that was to be predicted
    xy_um: NDArray[np.float64]  # (spot, 2), in each section's own coordinates

    def __len__(self) -> int:
        return len(self.depth)

    def at(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Memory:
        """Return what is known of some spots."""
        return Memory(self.pictures.at(rows), self.scores[rows], self.depth[rows], self.section[rows], self.xy_um[rows])

    def others(self) -> Memory:
        """Return what is recalled of other sections."""
        return self.at(self.section != HOME)

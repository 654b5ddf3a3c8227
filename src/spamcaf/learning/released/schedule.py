"""The released schedule: fixed chunks of spots in file order, and a learning rate by epoch."""

from __future__ import annotations

import math
from itertools import pairwise

from spamcaf.parameters import ReleasedSettings


def chunks(n_spots: int, size: int) -> list[slice]:
    """Return the spots of each step, at most `size`, in order and the same in every epoch.

    A single spot left over has no variance for a batch norm: it gets one more spot from the chunk before it.
    """
    bounds = [*range(0, n_spots, size), n_spots]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:  # noqa: PLR2004  more than one chunk
        bounds[-2] -= 1
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def rate(epoch: int, settings: ReleasedSettings) -> float:
    """Return the learning rate of an epoch: a linear rise to the peak, then a cosine towards 0."""
    if epoch < settings.warmup_epochs:
        return settings.learning_rate * (epoch + 1) / settings.warmup_epochs
    share = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))

"""Baseline: the mean of kriging and ridge, projected on the five strongest expression programs.

The strongest of the simple ones: the programs denoise, the two halves see different things.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.scoring.baselines import kriging, ridge
from spamcaf.sections.sites import Measured, SiteSource

_N_PROGRAMS = 5


def predict(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32, kriging and ridge fitted afresh."""
    by_place = kriging.predict(measured, sites, pitch_um, seed)
    by_picture = ridge.predict(measured, sites, pitch_um, seed)
    return combine(measured, by_place, by_picture)


def combine(measured: Measured, by_place: NDArray[np.float32], by_picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of two (site, gene) predictions, projected on the programs of the measured expression.

    A program is a right singular vector of the centred expression, each gene divided by the square root of its
    standard deviation: between raw values, which a few strong genes rule, and standardised ones, which noise rules.
    """
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    centred = measured.expression - mean
    scale = np.sqrt(centred.std(axis=0))
    scale[scale == 0] = 1.0
    programs = np.linalg.svd(centred / scale, full_matrices=False)[2][:_N_PROGRAMS]  # (program, gene)
    mixed = ((by_place + by_picture) / 2 - mean) / scale
    return (mean + (mixed @ programs.T) @ programs * scale).astype(np.float32)

"""Baseline for super-resolution: the measured expression of the nearest spot, as if nothing lay between the spots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spamcaf.sections.sites import Measured, SiteSource


def predict(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32: what the nearest spot shows. `pitch_um` and `seed`: the common signature."""
    _, nearest = cKDTree(measured.sites.xy_um).query(sites.xy_um)
    return measured.expression[nearest].astype(np.float32)

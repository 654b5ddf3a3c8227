"""The baselines by name. Nothing is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import Model
from spamcaf.sections.sites import Measured, SiteSource

RECOVERY = (Model.GENE_MEAN, Model.IDW, Model.KRIGING, Model.RIDGE, Model.KRIGING_RIDGE_PROGRAMS)
"""Baselines at hidden spots."""

SUPER_RESOLUTION = (Model.GENE_MEAN, Model.NEAREST_SPOT, *RECOVERY[1:])
"""Baselines between the spots."""

TRANSFER = (Model.GENE_MEAN, Model.RIDGE)
"""Baselines of a section that was never measured: no neighbour tells anything."""

_PARTS = (Model.KRIGING, Model.RIDGE)
_MIN_SPOTS = 3


class Baseline(Protocol):
    """What each baseline's `predict` looks like."""

    def __call__(self, measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
        """Return (site, gene) float32 at `sites`, learned from `measured` alone."""
        ...


def load_baseline(name: str) -> Baseline:
    """Return the baseline called `name`; ValueError with the names there are otherwise."""
    if name not in SUPER_RESOLUTION:
        raise ValueError(f"Unknown baseline '{name}'. Choose from: {', '.join(SUPER_RESOLUTION)}.")
    return cast(Baseline, import_module(f"spamcaf.scoring.baselines.{name}").predict)


def predict_all(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, names: Sequence[str] = RECOVERY
) -> dict[str, NDArray[np.float32]]:
    """Return each named baseline's (site, gene) prediction; kriging and ridge are fitted once, whoever needs them."""
    if len(measured) < _MIN_SPOTS:
        raise InputError(
            f"{len(measured)} visible spots.", f"at least {_MIN_SPOTS} for the baselines.", "Hide fewer spots."
        )
    parts = _PARTS if Model.KRIGING_RIDGE_PROGRAMS in names else ()
    fitters = {name: load_baseline(name) for name in (*parts, *names)}
    done: dict[str, NDArray[np.float32]] = {}
    for name, fit in fitters.items():
        if name == Model.KRIGING_RIDGE_PROGRAMS:
            combine = import_module("spamcaf.scoring.baselines.kriging_ridge_programs").combine
            done[name] = combine(measured, *(done[part] for part in _PARTS))
        else:
            done[name] = fit(measured, sites, pitch_um, seed)
    return {str(name): done[name] for name in names}

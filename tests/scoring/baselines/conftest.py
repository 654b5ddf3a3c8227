"""Small sections whose expression depends on place, on the picture, or on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.sections.sites import Measured, Sites

PITCH_UM = 200.0


class Case(NamedTuple):
    """Measured spots, hidden sites and the truth there."""

    measured: Measured
    hidden: Sites
    truth: NDArray[np.float32]


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Return a maker of cases; `place` and `picture` are the strengths of the two sources of expression."""

    def make(place: float = 0.0, picture: float = 0.0, side: int = 12, n_genes: int = 30, n_train: int = 90) -> Case:
        rng = np.random.default_rng(3)
        xy_um = PITCH_UM * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
        seen = rng.normal(size=(len(xy_um), 3))
        neighbours = seen[:, None, :] @ rng.normal(size=(3, 40)) + 0.3 * rng.normal(size=(len(xy_um), 9, 40))
        waves = np.stack([np.sin(xy_um[:, 0] / 700), np.cos(xy_um[:, 1] / 900)], axis=1)
        signal = place * waves @ rng.normal(size=(2, n_genes)) + picture * seen @ rng.normal(size=(3, n_genes))
        expression = (2.0 + signal + rng.normal(size=signal.shape)).astype(np.float32)
        sites = Sites(xy_um, neighbours[:, 4].astype(np.float32), neighbours.astype(np.float32))
        order = rng.permutation(len(xy_um))
        train, hidden = order[:n_train], order[n_train:]
        measured = Measured(sites, expression, np.full(len(xy_um), 1e4))
        return Case(measured.at(train), sites.at(hidden), expression[hidden])

    return make

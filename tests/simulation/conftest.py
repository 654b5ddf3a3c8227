"""A simulated tissue of 1.9 mm and its section, made once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.fixture(scope="session")
def tissue() -> SimulatedTissue:
    return SimulatedTissue(SimulationSettings(width_um=1900, height_um=1900, mpp=1.0))


@pytest.fixture(scope="session")
def section(tissue: SimulatedTissue) -> AnnData:
    return tissue.section()

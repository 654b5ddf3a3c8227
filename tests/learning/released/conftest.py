from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.model.data import TrainingSection
from spamcaf.model.released import FittedReleased, fit_released
from spamcaf.parameters import ComputeSettings, ReleasedSettings
from spamcaf.sections.sites import Measured, Sites

SETTINGS = ReleasedSettings(epochs=4, chunk=20, warmup_epochs=1)


def with_whole(sites: Sites) -> Sites:
    return replace(sites, whole=sites.neighbours.mean(axis=1))


@pytest.fixture(scope="session")
def seen_whole(section: Measured) -> Measured:
    """Return all spots, with the shrunk windows' features."""
    return replace(section, sites=with_whole(section.sites))


@pytest.fixture(scope="session")
def target_section(seen_whole: Measured, is_hidden: np.ndarray, folds: np.ndarray) -> TrainingSection:
    return TrainingSection(seen_whole.at(~is_hidden), folds)


@pytest.fixture(scope="session")
def released(target_section: TrainingSection, cpu: ComputeSettings) -> FittedReleased:
    return fit_released(target_section, SETTINGS, cpu, seed=5)

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spamcaf.model.data import ImageFeatures, PooledSections, TrainingSection
from spamcaf.model.fit import Fitted, fit_spamcaf
from spamcaf.model.gaussian_process import Kernels
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.sections.sites import Measured, Sites

PITCH_UM = 100.0
TILE_UM = 112.0


def make_section(n_side: int, seed: int, n_genes: int = 40, n_features: int = 12) -> Measured:
    """A square lattice whose expression follows two smooth patterns; the picture shows one of them, noisily.

    Sections of any size and seed are of one tissue: the same genes follow the same patterns, seen in the same features.
    """
    rng, tissue = np.random.default_rng(seed), np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2)
    xy_um = grid * PITCH_UM
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2) * TILE_UM
    waves = np.array([[0.006, 0.002], [-0.003, 0.005]])
    shown = np.sin((xy_um[:, None] + steps) @ waves.T)[..., :1]  # (spot, tile, 1)
    neighbours = shown @ tissue.normal(size=(1, n_features)) + 0.3 * rng.normal(size=(len(grid), 9, n_features))
    loadings = 0.8 * tissue.normal(size=(2, n_genes)) * (tissue.random((2, n_genes)) < 0.6)
    rate = np.exp(np.sin(xy_um @ waves.T) @ loadings + tissue.normal(size=n_genes))
    depth = 1500 * np.exp(0.3 * rng.normal(size=len(grid)))
    counts = rng.poisson(rate / rate.sum(axis=1, keepdims=True) * depth[:, None])
    total = counts.sum(axis=1).astype(np.float64)
    expression = np.log1p(counts / total[:, None] * 1e4).astype(np.float32)
    tiles = neighbours.astype(np.float32)
    return Measured(Sites(xy_um.astype(np.float64), tiles[:, 4], tiles), expression, total)


@pytest.fixture(scope="session")
def section() -> Measured:
    return make_section(n_side=11, seed=3)


@pytest.fixture(scope="session")
def is_hidden(section: Measured) -> np.ndarray:
    hidden = np.zeros(len(section), bool)
    hidden[np.random.default_rng(0).permutation(len(section))[: len(section) // 2]] = True
    return hidden


@pytest.fixture(scope="session")
def visible(section: Measured, is_hidden: np.ndarray) -> Measured:
    return section.at(~is_hidden)


@pytest.fixture(scope="session")
def folds(visible: Measured) -> np.ndarray:
    return np.random.default_rng(1).permutation(len(visible)) % 3


@pytest.fixture(scope="session")
def pooled(visible: Measured, folds: np.ndarray) -> PooledSections:
    return PooledSections.from_sections(TrainingSection(visible, folds))


@pytest.fixture(scope="session")
def kernels_of() -> Callable[..., Kernels]:
    """Return a function that gives the kernels of one section's spots."""

    def make(measured: Measured, *, with_space: bool = True, pitch_um: float = PITCH_UM) -> Kernels:
        image_features = ImageFeatures.from_sites(measured.sites)
        xy_um = measured.sites.xy_um if with_space else None
        return Kernels.of_spots(
            image_features.minus(image_features.mean()), xy_um, np.zeros(len(measured), np.int64), pitch_um
        )

    return make


@pytest.fixture(scope="session")
def others() -> list[TrainingSection]:
    """Two sections of the same tissue: the same genes and pictures, other spots, depths and stain."""
    sections = [make_section(n_side=9, seed=4), make_section(n_side=10, seed=5)]
    return [TrainingSection(section, np.arange(len(section)) % 3) for section in sections]


@pytest.fixture(scope="session")
def pool_of_three(visible: Measured, folds: np.ndarray, others: list[TrainingSection]) -> PooledSections:
    return PooledSections.from_sections(TrainingSection(visible, folds), others)


@pytest.fixture(scope="session")
def cpu() -> ComputeSettings:
    return ComputeSettings(device="cpu", threads=1)


FIT = FitSettings(n_programs=4, epochs=12, batch=16)
NETWORK = NetworkSettings(width=16, heads=2, dropout=0.1, n_summary=3, image_components=6, n_context=5)


@pytest.fixture(scope="session")
def fitted(visible: Measured, folds: np.ndarray, cpu: ComputeSettings) -> Fitted:
    return fit_spamcaf(TrainingSection(visible, folds), [], PITCH_UM, FIT, NETWORK, cpu, seed=5)

"""Made-up sections: arrays without an image, whose pictures tell of expression through a non-linear link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from _models import Options
from _section import Grid, Section, Seen
from numpy.typing import NDArray

from spamcaf.histology.tiles import CENTRE
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, Obs, SectionField
from spamcaf.parameters import FitSettings, NetworkSettings, PanelSettings, ReleasedSettings
from spamcaf.sections.sites import Measured, Sites

if TYPE_CHECKING:
    from anndata import AnnData

OPTIONS = Options(
    fit=FitSettings(epochs=1, n_programs=3),
    network=NetworkSettings(width=8, heads=1, image_components=4, n_context=2),
    released=ReleasedSettings(epochs=1, warmup_epochs=0),
    panel=PanelSettings(n_genes=20),
)
"""Tiny, for --quick."""

PITCH_UM = 100.0
N_FEATURES, N_GENES = 12, 30
N_SHOWN, N_HIDDEN = 4, 3
"""Fields that the picture shows, and those that it does not."""
SHOWN_PITCHES, HIDDEN_PITCHES = 1.5, 6.0
"""Inverse wave numbers: what the picture shows varies from spot to spot, what it does not show varies slowly."""
WAVES_PER_FIELD = 8
EFFECT = 0.4


class World:
    """Fields in the plane, and how pictures and genes follow them; the same for every section of a tissue.

    Features are linear in the fields shown, with noise. Genes follow products, squares and sines of them, which no
    linear regression on the features finds, and the hidden fields, which only measured spots tell of.
    """

    def __init__(self, n_features: int, n_genes: int, *, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        n_fields = N_SHOWN + N_HIDDEN
        lengths = np.repeat([SHOWN_PITCHES, HIDDEN_PITCHES], [N_SHOWN, N_HIDDEN]) * PITCH_UM
        self._waves = rng.normal(size=(n_fields, WAVES_PER_FIELD, 2)) / lengths[:, None, None]
        self._phase = rng.uniform(0, 2 * np.pi, (n_fields, WAVES_PER_FIELD))
        self._look = rng.normal(size=(N_SHOWN, n_features))
        n_drivers = N_SHOWN + N_HIDDEN
        self._loadings = EFFECT * rng.normal(size=(n_drivers, n_genes)) * (rng.random((n_drivers, n_genes)) < 0.5)  # noqa: PLR2004
        self._abundance = np.exp(rng.normal(size=n_genes))

    def fields(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fields (..., field) at places (..., 2), of unit variance."""
        angle = np.tensordot(xy_um, self._waves, axes=(-1, -1)) + self._phase
        fields: NDArray[np.float64] = np.sin(angle).sum(axis=-1) / np.sqrt(WAVES_PER_FIELD / 2)
        return fields

    def features(self, xy_um: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return features (..., feature) of the tiles at places."""
        shown = (self.fields(xy_um)[..., :N_SHOWN] @ self._look).astype(np.float32)
        return shown + rng.standard_normal(shown.shape, np.float32)

    def rates(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return each gene's share of the RNA (place, gene)."""
        fields = self.fields(xy_um)
        a, b, c, d = fields[:, :N_SHOWN].T
        drivers = np.column_stack([a * b, c**2 - 1, np.sin(2 * d), a, fields[:, N_SHOWN:]])
        rates = self._abundance * np.exp(drivers @ self._loadings)
        return rates / rates.sum(axis=1, keepdims=True)


def _square(n_side: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    index = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2)
    return (index * PITCH_UM).astype(np.float64), index.astype(np.int64)


def _tiles(xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (site, 9, 2), the centres of the tiles around places, row by row."""
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2) * 0.3 * PITCH_UM
    return xy_um[:, None] + steps


def make_measured(
    n_spots: int, n_features: int, n_genes: int, *, seed: int, depth: float = 5000.0, with_whole: bool = False
) -> Measured:
    """Return spots on a square lattice with expression as log1p of counts per 10 000, in random order.

    The shrunk window of `with_whole`, which only `released` looks at, is the mean of its tiles.
    """
    rng, world = np.random.default_rng(seed), World(n_features, n_genes)
    xy_um = _square(int(np.ceil(np.sqrt(n_spots))))[0]
    xy_um = rng.permutation(xy_um)[:n_spots]
    windows = np.concatenate([world.features(_tiles(part), rng) for part in np.array_split(xy_um, n_spots // 500 + 1)])
    total = depth * rng.lognormal(0, 0.3, n_spots)
    counts = rng.poisson(world.rates(xy_um) * total[:, None])
    found = np.maximum(counts.sum(axis=1), 1).astype(np.float64)
    expression = np.log1p(counts / found[:, None] * 1e4).astype(np.float32)
    whole = windows.mean(axis=1) if with_whole else None
    return Measured(Sites(xy_um, windows[:, CENTRE], windows, whole), expression, found)


def make_section(name: str, *, n_side: int, seed: int, factors: tuple[int, ...] = ()) -> Section:
    """Return a section of `n_side` x `n_side` spots, and grids with their truth where `factors` asks for them."""
    rng, world = np.random.default_rng(seed), World(N_FEATURES, N_GENES)
    xy_um, index = _square(n_side)
    counts = rng.poisson(world.rates(xy_um) * 2000)
    grids = tuple(_grid(world, factor, xy_um, rng) for factor in factors)
    return Section(name, _anndata(counts, xy_um, index), _seen(world, xy_um, rng), grids)


def _anndata(counts: NDArray[np.int64], xy_um: NDArray[np.float64], index: NDArray[np.int64]) -> AnnData:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    spots, genes = [f"s{i}" for i in range(len(counts))], [f"g{i}" for i in range(counts.shape[1])]
    obs = pd.DataFrame({Obs.ARRAY_COL.value: index[:, 0], Obs.ARRAY_ROW.value: index[:, 1]}, index=spots)
    section = AnnData(csr_matrix(counts.astype(np.int32)), obs, pd.DataFrame({GENE_IDS: genes}, index=genes))
    section.obsm[SPATIAL] = xy_um
    facts = {
        SectionField.MPP: 1.0,
        SectionField.PITCH_UM: PITCH_UM,
        SectionField.SPOT_UM: 55.0,
        SectionField.LATTICE: "square",
    }
    section.uns[SECTION_METADATA] = {fact.value: value for fact, value in facts.items()}
    return section


def _seen(world: World, xy_um: NDArray[np.float64], rng: np.random.Generator) -> Seen:
    windows = world.features(_tiles(xy_um), rng)
    return Seen(windows, windows.reshape(len(windows), -1)[:, :54], windows.mean(axis=1))


def _grid(world: World, factor: int, xy_um: NDArray[np.float64], rng: np.random.Generator) -> Grid:
    between = xy_um[:: len(xy_um) // 20 or 1] + PITCH_UM / np.sqrt(factor)
    truth = np.log1p(1e4 * world.rates(between)).astype(np.float32)
    return Grid(factor, factor * len(xy_um), between, _seen(world, between, rng), truth)

"""Made-up sections: arrays without an image, whose pictures tell of expression through a non-linear link."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.tiles import CENTRE
from spamcaf.sections.sites import Measured, Sites

PITCH_UM = 100.0
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


def _square(n_side: int) -> NDArray[np.float64]:
    index = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2)
    return (index * PITCH_UM).astype(np.float64)


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
    xy_um = _square(int(np.ceil(np.sqrt(n_spots))))
    xy_um = rng.permutation(xy_um)[:n_spots]
    windows = np.concatenate([world.features(_tiles(part), rng) for part in np.array_split(xy_um, n_spots // 500 + 1)])
    total = depth * rng.lognormal(0, 0.3, n_spots)
    counts = rng.poisson(world.rates(xy_um) * total[:, None])
    found = np.maximum(counts.sum(axis=1), 1).astype(np.float64)
    expression = np.log1p(counts / found[:, None] * 1e4).astype(np.float32)
    whole = windows.mean(axis=1) if with_whole else None
    return Measured(Sites(xy_um, windows[:, CENTRE], windows, whole), expression, found)

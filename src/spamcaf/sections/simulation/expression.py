"""What is expressed at any place, and what a spot there counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from spamcaf.parameters import SimulationSettings
from spamcaf.sections.simulation.domains import domain_values
from spamcaf.sections.simulation.fields import Floats
from spamcaf.sections.simulation.genes import Genes
from spamcaf.sections.simulation.landscape import Landscape, Stream, generator

TARGET_SUM = 10_000.0
DEPTH_SPREAD = 0.35  # standard deviation of log depth beside cell content
CHUNK = 256  # sites computed at once

ANGLES = np.arange(6) * np.pi / 3
DISC = np.concatenate([np.zeros((1, 2)), np.sqrt(2 / 3) * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)])
DISC_WEIGHT = np.array([0.25, *[0.125] * 6])
"""Nodes and weights of the unit disc's mean, exact to degree 5: Abramowitz and Stegun 25.4.61."""


class Expression:
    """Expected expression at any place of a landscape, and counts drawn from it."""

    def __init__(self, settings: SimulationSettings, landscape: Landscape, genes: Genes, spot_um: float) -> None:
        self._settings, self._landscape, self._genes = settings, landscape, genes
        self._radius = spot_um / 2
        with np.errstate(divide="ignore"):  # silent genes: exp(-inf) is the zero meant
            self._log_abundance = np.log(genes.abundance).astype(np.float32)

    def truth(self, xy_um: Floats) -> NDArray[np.float32]:
        """Return (site, gene) log1p of the expected counts per 10 000 of a spot centred at each place."""
        truth = np.empty((len(xy_um), len(self._genes.table)), dtype=np.float32)
        for part, mean, _ in self._expected(xy_um):
            truth[part] = np.log1p(TARGET_SUM * mean)
        return truth

    def counts(self, xy_um: Floats) -> sparse.csr_matrix:
        """Return (spot, gene) int32 counts: negative binomial around the truth, depths log-normal around content."""
        rng = generator(self._settings, Stream.COUNTS)
        content = np.concatenate([content for _, _, content in self._expected(xy_um)])
        depth = content * rng.lognormal(0, DEPTH_SPREAD, len(content))
        depth *= self._settings.median_umi / np.median(depth)
        shape = 1 / self._genes.dispersion
        rows = []
        for part, mean, _ in self._expected(xy_um):
            rate = mean * depth[part, None] * rng.gamma(shape, 1 / shape, mean.shape)
            rows.append(sparse.csr_matrix(rng.poisson(rate).astype(np.int32)))
        return sparse.csr_matrix(sparse.vstack(rows))

    def _expected(self, xy_um: Floats) -> Iterator[tuple[slice, Floats, Floats]]:
        """Yield parts of the sites, each gene's share of their RNA (site, gene) and their RNA content (site,)."""
        for start in range(0, len(xy_um), CHUNK):
            part = slice(start, min(start + CHUNK, len(xy_um)))
            nodes = (np.asarray(xy_um, np.float64)[part, None] + self._radius * DISC).reshape(-1, 2)  # (site x node, 2)
            latents, rna = self._latents(nodes[:, 0], nodes[:, 1])
            rna = rna.reshape(-1, len(DISC)) * DISC_WEIGHT
            rates = np.exp(latents.astype(np.float32) @ self._genes.effects.astype(np.float32) + self._log_abundance)
            rates /= rates.sum(axis=1, keepdims=True)
            mean = np.einsum("sn,sng->sg", rna, rates.reshape(*rna.shape, -1)) / rna.sum(axis=1, keepdims=True)
            yield part, mean, rna.sum(axis=1)

    def _latents(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the (place, latent) drivers and the RNA content of each place, next to none on glass."""
        seen = self._landscape.visible(x, y)
        visible = [*seen.membership, seen.cellularity, seen.grade, seen.gradient]
        rna = domain_values("rna") @ seen.membership * np.exp(0.25 * seen.cellularity)
        rna = rna * np.where(self._landscape.depth_um(x, y) > 0, 1.0, 1e-6)
        return np.stack([*visible, *self._landscape.hidden(x, y)], axis=1), rna

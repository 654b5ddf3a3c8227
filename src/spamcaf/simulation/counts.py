"""The simulated genes: what drives each, what is expressed at any coordinates, and what a spot there counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from spamcaf.names import GENE_IDS
from spamcaf.parameters import SimulationSettings
from spamcaf.sections.panel import TARGET_SUM
from spamcaf.sections.scale import SPOT_UM
from spamcaf.simulation.tissue_map import COUNTS, DOMAINS, N_HIDDEN, Floats, TissueMap, domain_values, generator

_BIOLOGY = 20240  # seed of the genes: the same in every simulated section, so that one can be predicted from another
_DRIVER = "driver"
SHARES = {"visible": 0.22, "hidden": 0.15, "both": 0.13, "flat": 0.47, "silent": 0.03}
"""Share of the genes by driver: what the image shows, hidden fields, both, nothing; silent ones are not expressed."""
_MARKERS = {
    "tumour": "ERBB2 KRT19 EPCAM KRT8 KRT18 MUC1 CDH1 GATA3 CLDN4 AGR2",
    "stroma": "COL1A1 COL3A1 COL1A2 DCN LUM FN1 POSTN SPARC COL6A1 FBN1",
    "adipose": "PLIN1 ADIPOQ FABP4 LEP PLIN4 CIDEC LPL G0S2",
    "lymphoid": "PTPRC CD3E MS4A1 CD79A IL7R CXCL13 CCL19 CD2 TRAC LTB",
    "gland": "KRT5 KRT14 KRT17 SCGB2A2 LTF PIGR ELF5 MYLK",
    "hidden": "MT-CO1 MT-CO2 MT-CO3 MT-ND1 MT-ND4 MT-CYB MT-ATP6 VEGFA CA9 ISG15 MX1 IFI6 FOS JUN EGR1",
    "flat": "RPLP0 RPS6 RPL13 RPS18 RPL10 RPS27 RPL41 RPS2 ACTB GAPDH EEF1A1 TPT1",
}
"""Known genes by what drives them, a domain being visible."""
_ABUNDANT = ("MT-", "RP", "ACTB", "GAPDH", "EEF1A1", "TPT1")
N_VISIBLE = len(DOMAINS) + 3  # memberships, cellularity, grade, gradient
_STRONG = 1.7
_DEPTH_SPREAD = 0.35  # standard deviation of log depth beside cell content
_CHUNK = 256  # sites computed at once
_ANGLES = np.arange(6) * np.pi / 3
_DISC = np.concatenate([np.zeros((1, 2)), np.sqrt(2 / 3) * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)])
_DISC_WEIGHT = np.array([0.25, *[0.125] * 6])
"""Nodes and weights of the unit disc's mean, exact to degree 5: Abramowitz and Stegun 25.4.61."""


@dataclass(frozen=True)
class Genes:
    """Genes and what drives them; latents are the domains' memberships, cellularity, grade, gradient, hidden fields."""

    table: pd.DataFrame  # indexed by symbol, with gene_ids and driver
    abundance: NDArray[np.float64]  # (gene,)
    dispersion: NDArray[np.float64]  # (gene,)
    effects: NDArray[np.float64]  # (latent, gene), natural-log units per unit of a latent


def simulated_genes(n_genes: int) -> Genes:
    """Return the first `n_genes` genes' names and natures: known markers first, then made-up symbols and ids."""
    rng = np.random.default_rng(_BIOLOGY)
    known = _markers()[:n_genes]
    symbols = [symbol for symbol, _, _ in known] + [f"SIM{i:05d}" for i in range(1, n_genes - len(known) + 1)]
    drivers = [driver for _, driver, _ in known] + list(_drivers(n_genes - len(known), rng))
    effects = np.stack([_effects(driver, rng) for driver in drivers], axis=1)
    for i, (_, _, domain) in enumerate(known):
        if domain is not None:
            effects[:N_VISIBLE, i] = _STRONG * (np.arange(N_VISIBLE) == domain)
    ids = [f"ENSG{99_900_000_001 + i}" for i in range(n_genes)]  # a range that Ensembl does not use
    table = pd.DataFrame({GENE_IDS: ids, _DRIVER: pd.Categorical(drivers, list(SHARES))}, index=pd.Index(symbols))
    abundance = np.where(table[_DRIVER] == "silent", 0.0, _abundance(symbols, len(known), rng))
    return Genes(table, abundance, rng.lognormal(np.log(0.35), 0.5, n_genes), effects)


def _markers() -> list[tuple[str, str, int | None]]:
    """Return (symbol, driver, domain or None), the kinds taking turns so that a short list holds all of them."""
    index = {domain.name: i for i, domain in enumerate(DOMAINS)}
    kinds = [
        [(symbol, "visible" if kind in index else kind, index.get(kind)) for symbol in symbols.split()]
        for kind, symbols in _MARKERS.items()
    ]
    return [marker for marker in chain.from_iterable(zip_longest(*kinds)) if marker is not None]


def _drivers(n_genes: int, rng: np.random.Generator) -> NDArray[np.str_]:
    edges = np.round(np.cumsum([0.0, *SHARES.values()]) * n_genes).astype(int)
    return rng.permutation(np.repeat(list(SHARES), np.diff(edges)))


def _effects(driver: str, rng: np.random.Generator) -> NDArray[np.float64]:
    effects = np.zeros(N_VISIBLE + N_HIDDEN)
    if driver in {"visible", "both"}:
        chosen = rng.choice(len(DOMAINS), 2, replace=False)
        effects[chosen] = rng.choice([1, 1, -1]) * rng.uniform(0.8, 1.8) * np.array([1.0, rng.choice([0.0, 0.6])])
        effects[len(DOMAINS) : N_VISIBLE] = rng.normal(0, 0.3, 3) * (rng.random(3) < 0.4)  # noqa: PLR2004
    if driver in {"hidden", "both"}:
        chosen = N_VISIBLE + rng.choice(N_HIDDEN, 2, replace=False)
        effects[chosen] = rng.choice([-1, 1], 2) * rng.uniform(0.4, 0.8) * np.array([1.0, rng.choice([0.0, 0.6])])
    return effects


def _abundance(symbols: list[str], n_known: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return log-normal abundances over about four decades; markers well expressed, housekeeping genes most."""
    logs = rng.normal(-0.3, 2.2, len(symbols))
    logs[:n_known] = rng.normal(2.2, 0.9, n_known)
    logs = np.minimum(logs, 6.2)
    is_abundant = [symbol.startswith(_ABUNDANT) for symbol in symbols]
    logs[is_abundant] = rng.normal(7.3, 0.4, sum(is_abundant))
    return np.exp(logs)


class Expression:
    """Expected expression at any coordinates of a tissue, and counts drawn from it."""

    def __init__(self, settings: SimulationSettings, tissue: TissueMap, genes: Genes) -> None:
        self._settings, self._tissue, self._genes = settings, tissue, genes
        with np.errstate(divide="ignore"):  # silent genes: exp(-inf) is the zero meant
            self._log_abundance = np.log(genes.abundance).astype(np.float32)

    def truth(self, xy_um: Floats) -> NDArray[np.float32]:
        """Return (site, gene) float32, log1p of the expected counts per 10 000 of a spot centred at each site."""
        truth = np.empty((len(xy_um), len(self._genes.table)), dtype=np.float32)
        for part, mean, _ in self._expected(xy_um):
            truth[part] = np.log1p(TARGET_SUM * mean)
        return truth

    def counts(self, xy_um: Floats) -> sparse.csr_matrix:
        """Return (spot, gene) int32 counts: negative binomial around the truth, depths log-normal around content."""
        rng = generator(self._settings, COUNTS)
        content = np.concatenate([content for _, _, content in self._expected(xy_um)])
        depth = content * rng.lognormal(0, _DEPTH_SPREAD, len(content))
        depth *= self._settings.median_umi / np.median(depth)
        shape = 1 / self._genes.dispersion
        rows = []
        for part, mean, _ in self._expected(xy_um):
            rate = mean * depth[part, None] * rng.gamma(shape, 1 / shape, mean.shape)
            rows.append(sparse.csr_matrix(rng.poisson(rate).astype(np.int32)))
        return sparse.csr_matrix(sparse.vstack(rows))

    def _expected(self, xy_um: Floats) -> Iterator[tuple[slice, Floats, Floats]]:
        """Yield parts of the sites, each gene's share of their RNA (site, gene) and their RNA content (site,)."""
        for start in range(0, len(xy_um), _CHUNK):
            part = slice(start, start + _CHUNK)
            nodes = np.asarray(xy_um, np.float64)[part, None] + SPOT_UM / 2 * _DISC  # (site, node, 2)
            latents, rna = self._latents(*nodes.reshape(-1, 2).T)
            rna = rna.reshape(-1, len(_DISC)) * _DISC_WEIGHT
            rates = np.exp(latents.astype(np.float32) @ self._genes.effects.astype(np.float32) + self._log_abundance)
            rates /= rates.sum(axis=1, keepdims=True)
            mean = np.einsum("sn,sng->sg", rna, rates.reshape(*rna.shape, -1)) / rna.sum(axis=1, keepdims=True)
            yield part, mean, rna.sum(axis=1)

    def _latents(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the latents (site, latent) and the RNA content (site,), next to none on glass."""
        visible = self._tissue.visible(x, y)
        rna = domain_values("rna") @ visible.membership * np.exp(0.25 * visible.cellularity)
        rna = rna * np.where(self._tissue.depth_um(x, y) > 0, 1.0, 1e-6)
        fields = [*visible.membership, visible.cellularity, visible.grade, visible.gradient]
        return np.stack([*fields, *self._tissue.hidden(x, y)], axis=1), rna

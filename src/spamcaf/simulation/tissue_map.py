"""The simulated tissue as functions of coordinates: outline, domains, fields that the image shows and hidden ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spamcaf.parameters import SimulationSettings

Floats = NDArray[np.floating]

N_HIDDEN = 6
_N_TERMS = 48  # plane waves of a field
_TISSUE_SHARE = 0.80
_BORDER_SHARPNESS = 10.0  # makes the transition between two domains about 12 um wide


TISSUE_MAP, TEXTURE, COUNTS, BARCODES = range(4)
"""Independent random streams of one seed, so that changing one thing leaves the others alone."""


def generator(settings: SimulationSettings, stream: int) -> np.random.Generator:
    """Return the generator of one stream."""
    return np.random.default_rng([settings.seed, stream])


@dataclass(frozen=True)
class Domain:
    """One kind of tissue."""

    name: str
    share: float  # of the tissue's area
    eosin: float  # optical density between nuclei
    haematoxylin: float
    fibres: float  # strength of the collagen fibres
    grain: float
    is_crowded: bool  # nuclei are spaced as those of lymphocytes
    density: float  # share of the possible nuclei that exist
    long_um: float  # semi-axes of a nucleus
    short_um: float
    darkness: float  # optical density of a nucleus
    is_aligned: bool  # nuclei lie along the fibres
    rna: float  # relative content per area


TUMOUR, STROMA, ADIPOSE, LYMPHOID, GLAND = range(5)
DOMAINS = (
    Domain("tumour", 0.30, 0.34, 0.20, 0.05, 0.22, False, 0.72, 4.7, 3.7, 0.85, False, 1.15),
    Domain("stroma", 0.32, 0.50, 0.03, 0.42, 0.08, False, 0.26, 6.2, 1.5, 1.00, True, 0.80),
    Domain("adipose", 0.12, 0.26, 0.02, 0.10, 0.05, False, 0.10, 4.0, 1.4, 1.00, False, 0.60),
    Domain("lymphoid", 0.11, 0.20, 0.26, 0.05, 0.15, True, 0.85, 3.0, 2.8, 1.30, False, 1.30),
    Domain("gland", 0.15, 0.40, 0.05, 0.25, 0.10, False, 0.24, 5.0, 1.7, 0.95, True, 1.00),
)


def domain_values(field: str) -> NDArray[np.float64]:
    """Return one number per domain, (domain,): the field of that name."""
    return np.array([float(getattr(domain, field)) for domain in DOMAINS])


@dataclass(frozen=True)
class FourierFields:
    """Independent random fields of zero mean and unit variance: sums of plane waves."""

    wave: NDArray[np.float64]  # (field, term, 2), radians per micrometre
    phase: NDArray[np.float64]  # (field, term), radians

    @classmethod
    def draw(cls, rng: np.random.Generator, n_fields: int, shortest_um: float, longest_um: float) -> Self:
        """Draw fields whose wavelengths are log-uniform between two bounds, in all directions."""
        size = n_fields, _N_TERMS
        length = np.exp(rng.uniform(np.log(shortest_um), np.log(longest_um), size))
        angle = rng.uniform(0, 2 * np.pi, size)
        wave = 2 * np.pi / length[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return cls(wave, rng.uniform(0, 2 * np.pi, size))

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Return (field, ...) values at `x`, `y` in micrometres: points (site,), or an open grid (1, column), (row, 1).

        On a grid, values are a matrix product of a row and a column factor, computed in float32: a hundred times
        cheaper than one cosine per term.
        """
        scale = np.sqrt(2 / self.phase.shape[1])
        if x.ndim == 1:
            angle = self.wave[..., :1] * x + self.wave[..., 1:] * y + self.phase[..., None]
            return scale * np.cos(angle).sum(axis=1)
        along_x = self.wave[..., :1] * x[0] + self.phase[..., None]  # (field, term, column)
        along_y = self.wave[..., 1:] * y[:, 0]  # (field, term, row)
        columns = np.concatenate([np.cos(along_x), -np.sin(along_x)], axis=1).astype(np.float32)
        rows = np.concatenate([np.cos(along_y), np.sin(along_y)], axis=1).astype(np.float32)
        return np.float32(scale) * np.matmul(rows.transpose(0, 2, 1), columns)


@dataclass(frozen=True)
class VisibleFields:
    """What the image shows: `membership` (domain, ...) sums to 1, the others (...) have unit scale."""

    membership: Floats
    cellularity: Floats
    grade: Floats
    gradient: Floats


class TissueMap:
    """A tissue section known everywhere. All methods take `x` and `y` as `FourierFields` does, in micrometres."""

    def __init__(self, settings: SimulationSettings) -> None:
        rng = generator(settings, TISSUE_MAP)
        self._width, self._height = settings.width_um, settings.height_um
        side = min(self._width, self._height)
        self._outline = FourierFields.draw(rng, 1, 0.25 * side, 0.7 * side)
        self._edge = FourierFields.draw(rng, 1, 60, 200)
        self._domains = FourierFields.draw(rng, len(DOMAINS), 150, 700)
        self._local = FourierFields.draw(rng, 2, 140, 500)
        self._warp = FourierFields.draw(rng, 2, 260, 700)
        self._hidden = FourierFields.draw(rng, N_HIDDEN, 800, 1700)
        self._towards, self._flow = rng.uniform(0, 2 * np.pi, 2)
        self._calibrate(rng)

    def _calibrate(self, rng: np.random.Generator) -> None:
        """Fix the tissue's share, the domains' shares and the scale of the hidden fields, at random coordinates."""
        x, y = rng.uniform(0, self._width, 4000), rng.uniform(0, self._height, 4000)
        self._glass_level = float(np.quantile(self._height_above_glass(x, y), 1 - _TISSUE_SHARE))
        inside = self.depth_um(x, y) > 0
        x, y = x[inside], y[inside]
        fields, share, self._bias = self._domains(x, y), domain_values("share"), np.zeros(len(DOMAINS))
        for _ in range(60):
            winner = np.argmax(fields + self._bias[:, None], axis=0)
            found = np.bincount(winner, minlength=len(DOMAINS)) / fields.shape[1]
            self._bias += 0.4 * np.clip(np.log(share / np.maximum(found, 1e-3)), -1, 1)
        raw = self._hidden(x, y).T  # (site, field)
        known = np.stack([np.ones_like(x), self.gradient(x, y)], axis=1)
        self._hidden_drift = np.linalg.lstsq(known, raw, rcond=None)[0]
        covariance = np.cov(raw - known @ self._hidden_drift, rowvar=False)
        self._hidden_mixing = np.linalg.inv(np.linalg.cholesky(covariance)).T

    def _height_above_glass(self, x: Floats, y: Floats) -> Floats:
        u, v = np.abs(2 * x / self._width - 1), np.abs(2 * y / self._height - 1)
        return 1 - (u**4 + v**4) ** 0.25 + 0.075 * self._outline(x, y)[0] + 0.012 * self._edge(x, y)[0]

    def depth_um(self, x: Floats, y: Floats) -> Floats:
        """Return roughly how far inside the tissue's outline the coordinates lie; negative on glass."""
        return (self._height_above_glass(x, y) - self._glass_level) * min(self._width, self._height) / 2

    def gradient(self, x: Floats, y: Floats) -> Floats:
        """Return the trend across the section, about -1.7 ... 1.7 from side to side."""
        u, v = x / self._width - 0.5, y / self._height - 0.5
        return (u * np.cos(self._towards) + v * np.sin(self._towards)) * np.sqrt(12)

    def membership(self, x: Floats, y: Floats) -> Floats:
        """Return (domain, ...) shares of each domain: one of them is near 1 away from borders."""
        fields = self._domains(x, y)
        score = fields + self._bias.astype(fields.dtype).reshape(-1, *[1] * (fields.ndim - 1))
        weight = np.exp(_BORDER_SHARPNESS * (score - score.max(axis=0)))
        return weight / weight.sum(axis=0)

    def visible(self, x: Floats, y: Floats) -> VisibleFields:
        """Return what the image shows."""
        cellularity, grade = self._local(x, y)
        return VisibleFields(self.membership(x, y), cellularity, grade, self.gradient(x, y))

    def hidden(self, x: Floats, y: Floats) -> Floats:
        """Return (field, site) values that the image does not show, correlated over 250-500 um.

        Over the tissue they are uncorrelated with each other and with the gradient.
        """
        known = np.stack([np.ones_like(x), self.gradient(x, y)], axis=1)
        return ((self._hidden(x, y).T - known @ self._hidden_drift) @ self._hidden_mixing).T

    def fibre_coordinates(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return coordinates across and along the collagen fibres, micrometres; fibres follow lines of equal first."""
        across, along = self._warp(x, y)
        cos, sin = np.cos(self._flow), np.sin(self._flow)
        return x * cos + y * sin + 55 * across, y * cos - x * sin + 55 * along

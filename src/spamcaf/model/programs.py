"""Gene programs: the few expression patterns that a section's noisy genes share, and a linear decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_NOISE_PROGRAM = 10
LAST_NOISE_PROGRAM = 60
NOISE_FACTOR = 1.5
"""A program is shrunk by 1.5 times the median variance of programs 10 to 60, taken as noise."""


@dataclass(frozen=True)
class Programs:
    """A linear map between genes and programs.

    `gene_scale` (gene,) is the square root of the standard deviation, `loadings` (program, gene) orthonormal rows over
    scaled genes, `signal_fraction` (program,) in (0, 1] the share of a program's variance that is signal.
    Expression is counted from the mean of its section on either side.
    """

    gene_scale: NDArray[np.float64]
    loadings: NDArray[np.float64]
    signal_fraction: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.loadings)

    def scores(self, expression: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return program scores (spot, program) of centred expression (spot, gene), log1p of counts per 10 000."""
        return (expression / self.gene_scale) @ self.loadings.T

    def decode(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return centred expression (site, gene) of program scores (site, program), shrunk."""
        return scores @ self._decoder()

    def decode_variance(self, variance: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the variance of the expression (site, gene) for variances (site, program) of independent scores."""
        return variance @ self._decoder() ** 2

    def _decoder(self) -> NDArray[np.float64]:
        return self.signal_fraction[:, None] * self.loadings * self.gene_scale


def learn_programs(expression: NDArray[np.floating], n_programs: int) -> Programs:
    """Learn at most `n_programs` programs of centred `expression` (spot, gene); those that are all noise are dropped.

    Each gene is divided by the square root of its standard deviation: half-way between genes as they are, where a few
    loud ones are everything, and genes of equal weight, where the many noisy ones are.
    """
    gene_scale = np.sqrt(expression.std(axis=0, dtype=np.float64))
    gene_scale[gene_scale == 0] = 1.0
    scaled = expression / gene_scale
    _, singular, loadings = np.linalg.svd(scaled, full_matrices=False)
    variance = singular**2
    signal_fraction = _signal_fraction(variance)[:n_programs]
    n_kept = max(1, int(np.count_nonzero(signal_fraction)))
    return Programs(gene_scale, loadings[:n_kept], np.maximum(signal_fraction[:n_kept], np.finfo(float).eps))


def _signal_fraction(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    # A centred section of n spots has n - 1 programs; the last one is rounding error.
    last = min(LAST_NOISE_PROGRAM, len(variance) - 1)
    first = min(FIRST_NOISE_PROGRAM, last // 2)
    noise = NOISE_FACTOR * float(np.median(variance[first:last]))
    return np.clip(1 - noise / np.maximum(variance, np.finfo(float).tiny), 0, 1)

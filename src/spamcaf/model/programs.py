"""Gene programs: the few expression patterns that the noisy genes of a section share, and a linear decoder.

A truncated singular value decomposition of centred, scaled expression. Program scores are what the network and the
Gaussian process predict; the decoder turns scores back into genes, each program shrunk by its signal fraction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_NOISE_PROGRAM = 10
LAST_NOISE_PROGRAM = 60
NOISE_FACTOR = 1.5
"""Noise is taken as 1.5 times the median variance of programs 10 to 60."""


@dataclass(frozen=True)
class Programs:
    """A linear map between genes and programs, on expression counted from the mean of its section."""

    gene_scale: NDArray[np.float64]  # (gene,) square root of each gene's standard deviation
    loadings: NDArray[np.float64]  # (program, gene) orthonormal rows, on genes divided by `gene_scale`
    signal_fraction: NDArray[np.float64]  # (program,) share of each program's variance that is signal, in (0, 1]

    def __len__(self) -> int:
        return len(self.loadings)

    def scores(self, expression: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return program scores (spot, program) of centred expression (spot, gene), log1p of counts per 10 000."""
        return (expression / self.gene_scale) @ self.loadings.T

    def decode(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return centred expression (site, gene) of program scores (site, program)."""
        return scores @ self._decoder()

    def decode_variance(self, variance: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the variance of expression (site, gene) for variances (site, program) of independent scores."""
        return variance @ self._decoder() ** 2

    def _decoder(self) -> NDArray[np.float64]:
        return self.signal_fraction[:, None] * self.loadings * self.gene_scale


def learn_programs(expression: NDArray[np.floating], n_programs: int) -> Programs:
    """Learn gene programs; those that are all noise are dropped.

    Parameters
    ----------
    expression : (spot, gene)
        Differences from the section's mean, log1p of counts per 10 000.
    n_programs : int
        Programs at most; at least one is kept.
    """
    gene_scale, singular, loadings = scaled_svd(expression)
    fraction = _signal_fraction(singular**2)[:n_programs]
    n_kept = max(1, int(np.count_nonzero(fraction)))
    return Programs(gene_scale, loadings[:n_kept], np.maximum(fraction[:n_kept], np.finfo(float).eps))


def scaled_svd(
    expression: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return gene scale (gene,), singular values (program,) and loadings (program, gene) of centred (spot, gene)."""
    # The scale lies between genes as they are, where a few with large variance dominate, and genes of unit variance,
    # where the many noisy ones do.
    gene_scale = np.sqrt(expression.std(axis=0, dtype=np.float64))
    gene_scale[gene_scale == 0] = 1.0
    _, singular, loadings = np.linalg.svd(expression / gene_scale, full_matrices=False)
    return gene_scale, singular, loadings


def _signal_fraction(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    # A centred section of n spots has n - 1 programs; the last one is rounding error.
    last = min(LAST_NOISE_PROGRAM, len(variance) - 1)
    first = min(FIRST_NOISE_PROGRAM, last // 2)
    noise = NOISE_FACTOR * float(np.median(variance[first:last]))
    return np.clip(1 - noise / np.maximum(variance, np.finfo(float).tiny), 0, 1)

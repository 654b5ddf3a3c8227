"""Gene programs: the few expression patterns that the noisy genes of a section share, and a linear decoder.

Eigenvectors of the covariance between genes, learned from a section's own spots and, where there are any, from counts
of other sections or patients (no image needed): each source is weighted by how much its covariance says of the
section's. Program scores are what the network and the Gaussian process predict; the decoder turns scores back into
genes, each program shrunk by its signal fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.sections.sites import row_chunks

NOISE_FACTOR = 0.7
"""An eigenvalue counts as noise up to this share of the largest one of data whose signs are random."""
LEAST_SIGNAL = 0.03
"""Programs with a smaller share of signal are dropped: they cost a fit each and changed no score (C2-C4, masks 0-2)."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Programs:
    """A linear map between genes and programs, on expression that its depth does not explain (`depth`)."""

    gene_scale: Float64  # (gene,) square root of each gene's standard deviation
    loadings: Float64  # (program, gene) orthonormal rows, on genes divided by `gene_scale`
    signal_fraction: Float64  # (program,) share of each program's variance that is signal, in (0, 1]
    n_predicted: int  # the first genes, which are predicted; the others only tell about the scores

    def __len__(self) -> int:
        return len(self.loadings)

    def scores(self, residuals: NDArray[np.floating]) -> Float64:
        """Return program scores (spot, program) of residual expression (spot, gene)."""
        return (residuals / self.gene_scale) @ self.loadings.T

    def decode(self, scores: NDArray[np.floating]) -> Float64:
        """Return residual expression (site, predicted gene) of program scores (site, program)."""
        return scores @ self.decoder

    def decode_variance(self, variance: NDArray[np.floating]) -> Float64:
        """Return the variance (site, predicted gene) for variances (site, program) of independent scores."""
        return variance @ self.decoder**2

    @property
    def decoder(self) -> Float64:
        """Residual expression (program, predicted gene) that a unit of each score stands for."""
        return (self.signal_fraction[:, None] * self.loadings * self.gene_scale)[:, : self.n_predicted]


def row_weights(depth: Float64) -> Float64:
    """Return the weight (spot, 1) of each spot in a covariance: deeper spots are less noisy."""
    precision = np.sqrt(np.maximum(depth, 1.0))
    return np.sqrt(precision / precision.mean())[:, None]


def learn_programs(
    own: NDArray[np.floating],
    sources: Sequence[NDArray[np.floating]],
    n_programs: int,
    n_predicted: int,
    seed: int,
) -> tuple[Programs, Float64]:
    """Learn gene programs; those that are nearly all noise are dropped, at least one is kept.

    Parameters
    ----------
    own : (spot, gene)
        Weighted residual expression of the section to predict.
    sources : sequence of (spot, gene)
        The same of other sections or patients; a gene that one lacks is a column of zeros.
    n_programs : int
        Programs at most.
    n_predicted : int
        How many genes, the first ones, are predicted.
    seed : int
        Of the random signs.

    Returns
    -------
    Programs, (1 + source,) float64
        And the weight of the section itself and of each source; they sum to 1.
    """
    from scipy.linalg import eigh

    rows = [own, *sources]
    covariances = [part.T @ part / max(len(part), 1) for part in rows]
    weights = source_weights(own, covariances)
    mixed = np.tensordot(weights, covariances, axes=1)
    # The scale lies between genes as they are, where a few with large variance dominate, and genes of unit variance,
    # where the many noisy ones do.
    scale = np.maximum(np.diagonal(mixed), 0) ** 0.25
    scale[scale == 0] = 1.0
    rng = np.random.default_rng(seed)
    # Random signs keep each value's size and destroy all covariance: what is left is the noise of this very mixture.
    noise = sum(
        weight * (signed.T @ signed) / len(part)
        for weight, part in zip(weights, rows, strict=True)
        if weight > 0 and len(part)
        for chunk in row_chunks(len(part))
        for signed in [part[chunk] * rng.choice([-1.0, 1.0], size=part[chunk].shape)]
    )
    n_genes = len(scale)
    top = eigh(noise / np.outer(scale, scale), eigvals_only=True, subset_by_index=[n_genes - 1, n_genes - 1])[0]
    first = max(0, n_genes - n_programs)
    values, vectors = eigh(mixed / np.outer(scale, scale), subset_by_index=[first, n_genes - 1])
    values, loadings = np.maximum(values[::-1], np.finfo(float).tiny), vectors[:, ::-1].T
    fraction = np.where(values > 1e-12 * max(top, 1), np.clip(1 - NOISE_FACTOR * top / values, 0, 1), 0)
    n_kept = max(1, int(np.count_nonzero(fraction > LEAST_SIGNAL)))
    kept = np.maximum(fraction[:n_kept], np.finfo(float).eps)
    return Programs(scale, np.ascontiguousarray(loadings[:n_kept]), kept, n_predicted), weights


def source_weights(own: NDArray[np.floating], covariances: Sequence[Float64]) -> Float64:
    """Return the weights (source,), not negative and of sum 1, of the mixture nearest to the section's true covariance.

    The expected squared error of sum_i w_i M_i over all pairs of genes is, up to a constant, w' G w - 2 w' b with
    G_ij = <M_i, M_j>, noise included, and b_i = <M_i, true covariance>: for a source that is <M_i, S>, for the
    section's own S it is <S, S> less the sampling variance of S. Non-negative least squares solves it.

    Parameters
    ----------
    own : (spot, gene)
        The section's residual expression, which the first of `covariances` is of.
    covariances : sequence of (gene, gene)
        Of the section, then of each source.

    References
    ----------
    Ledoit and Wolf 2004, J Multivariate Analysis 88:365 (shrinkage to one target); Bartz, Hoehne and Mueller 2014,
    arXiv:1405.6560 (several targets).
    """
    from scipy.optimize import nnls

    alone = np.eye(len(covariances))[0]
    if len(covariances) == 1:
        return alone
    # Pairs of different genes only: the diagonal is mostly the noise of counting.
    pairs = np.stack([matrix[np.triu_indices(len(matrix), 1)] for matrix in covariances])
    gram = pairs @ pairs.T
    fourth = (np.square(own).T @ np.square(own) / len(own))[np.triu_indices(own.shape[1], 1)]
    sampling = float((fourth - pairs[0] ** 2).sum() / len(own))
    wanted = gram[0].copy()
    wanted[0] = max(wanted[0] - sampling, 0.0)
    values, vectors = np.linalg.eigh(gram)
    if values.max() <= 0:  # no two genes vary together, anywhere
        return alone
    root = (vectors * np.sqrt(np.maximum(values, 1e-9 * values.max()))).T  # root' root = G
    weights, _ = nnls(root, np.linalg.solve(root.T, wanted))
    return weights / weights.sum() if weights.sum() > 0 else alone


def scaled_svd(expression: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gene scale (gene,) and loadings (program, gene) of centred expression (spot, gene)."""
    scale = np.sqrt(expression.std(axis=0, dtype=np.float64))
    scale[scale == 0] = 1.0
    return scale, np.linalg.svd(expression / scale, full_matrices=False)[2]

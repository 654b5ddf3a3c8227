"""How expression follows sequencing depth, and a section's means of both.

log1p of counts per 10 000 depends on the depth of a spot even where a gene's share of all counts is the same
everywhere: most genes have a few counts, and the mean of a logarithm is not the logarithm of the mean. That part is
computed from the depth; gene programs are learned on what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.sections.panel import TARGET_SUM
from spamcaf.sections.sites import row_chunks

if TYPE_CHECKING:
    from spamcaf.model.programs import Programs

MIN_DEPTH, MAX_DEPTH = 50.0, 300_000.0
"""UMI of a spot, between which expected expression is tabulated; a smaller depth counts as the smallest."""
N_DEPTHS = 64
MAX_EXACT_MEAN = 60.0
"""Largest mean count for which the expectation is summed exactly; above it the second-order expansion is as good."""
N_COUNTS = 150
"""Counts summed over: at the largest mean less than 1e-20 of the probability lies above."""

Float64 = NDArray[np.float64]

MEAN_COUNTS = np.concatenate([[0.0], np.geomspace(1e-4, 1e5, 300)])
"""Mean counts at which expected expression is tabulated, to find the one that belongs to an expression."""
LOG_DEPTHS = np.linspace(np.log(MIN_DEPTH), np.log(MAX_DEPTH), N_DEPTHS)


def log_depth(depth: NDArray[np.number]) -> Float64:
    """Return the natural logarithm of total UMI counts, at least `MIN_DEPTH`."""
    return np.log(np.maximum(np.asarray(depth, np.float64), MIN_DEPTH))


def expected_expression(rate: Float64) -> Float64:
    """Return E log1p(10 000 x / d) for x ~ Poisson(rate d), (depth of `LOG_DEPTHS`, gene), for rates (gene,)."""
    return np.stack([_moments(rate * depth, depth)[0] for depth in np.exp(LOG_DEPTHS)])


def _moments(mean: Float64, depth: float) -> tuple[Float64, Float64]:
    """Return mean and variance of log1p(10 000 x / depth) for x ~ Poisson(mean), (gene,) each."""
    from scipy.special import gammaln, xlogy

    counts, per_count = np.arange(N_COUNTS)[:, None], TARGET_SUM / depth
    few = mean <= MAX_EXACT_MEAN
    probability = np.exp(xlogy(counts, mean[few]) - mean[few] - gammaln(counts + 1))  # (count, gene)
    value = np.log1p(per_count * counts[:, 0])
    first, second = np.empty_like(mean), np.empty_like(mean)
    first[few] = value @ probability
    second[few] = value**2 @ probability - first[few] ** 2
    many = mean[~few]
    slope = per_count / (1 + per_count * many)
    # E f(x) = f(m) + f''(m) var(x) / 2 and var f(x) = f'(m)^2 var(x), with f = log1p(c x) and var(x) = m
    first[~few] = np.log1p(per_count * many) - many / 2 * slope**2
    second[~few] = many * slope**2
    return first, second


@dataclass(frozen=True)
class ExpressionMeans:
    """A section's means, which hold what differs between sections as a whole: depth, batch, and mean expression."""

    rate: Float64  # (gene,) share of all counts
    log_depth: float  # mean of `log_depth` over spots
    residual: Float64  # (gene,) mean difference of expression from what the depth lets expect
    expression: Float64  # (gene,) mean of log1p of counts per 10 000

    @classmethod
    def from_spots(cls, expression: NDArray[np.floating], depth: Float64) -> ExpressionMeans:
        """Return the means of spots: `expression` (spot, gene) log1p of counts per 10 000, `depth` (spot,) UMI."""
        counts = (np.expm1(expression[r], dtype=np.float64) * (depth[r, None] / TARGET_SUM) for r in _parts(depth))
        rate = _sum(part.sum(axis=0) for part in counts) / max(float(depth.sum()), 1.0)
        mean = expression.mean(axis=0, dtype=np.float64)
        at_depth, table = log_depth(depth), expected_expression(rate)
        expected = _sum(_interpolated(table, at_depth[r]).sum(axis=0) for r in _parts(depth)) / len(depth)
        return cls(rate, float(at_depth.mean()), mean - expected, mean)

    @classmethod
    def mean_of(cls, parts: Sequence[ExpressionMeans]) -> ExpressionMeans:
        """Return the mean of several sections' means: the best guess for one that was never measured."""
        mean = {f.name: np.mean([getattr(part, f.name) for part in parts], axis=0) for f in fields(cls)}
        return cls(**mean | {"log_depth": float(mean["log_depth"])})

    @cached_property
    def _table(self) -> Float64:
        return expected_expression(self.rate)

    def residuals(self, expression: NDArray[np.floating], depth: Float64) -> Float64:
        """Return what the depth does not explain of `expression` (spot, gene), of mean 0 over the section's spots."""
        found = _interpolated(self._table, log_depth(depth))
        np.subtract(expression, found, out=found)
        found -= self.residual
        return found

    def scores(self, programs: Programs, expression: NDArray[np.floating], depth: Float64) -> Float64:
        """Return scores (spot, 1 + program): log depth from its mean, then program scores of the residuals."""
        by_depth = log_depth(depth) - self.log_depth
        parts = [programs.scores(self.residuals(expression[rows], depth[rows])) for rows in _parts(depth)]
        return np.column_stack([by_depth, np.concatenate(parts)])

    def by_depth(self, scores: Float64, n_genes: int) -> Float64:
        """Return expression (site, `n_genes`) that the first column of `scores`, the log depth, lets expect alone."""
        return _interpolated(self._table[:, :n_genes], self.log_depth + scores[:, 0]) + self.residual[:n_genes]

    def decode(self, programs: Programs, scores: Float64) -> Float64:
        """Return expression (site, predicted gene) of `scores` (site, 1 + program), not limited to 0."""
        return self.by_depth(scores, programs.n_predicted) + programs.decode(scores[:, 1:])

    def decode_variance(self, programs: Programs, scores: Float64, variance: Float64) -> Float64:
        """Return the variance of `decode` (site, predicted gene) for independent scores of `variance`.

        The curve of depth is taken as a line at each site's own depth.
        """
        slope = _slope(self._table[:, : programs.n_predicted], self.log_depth + scores[:, 0])
        return slope**2 * variance[:, :1] + programs.decode_variance(variance[:, 1:])

    def slopes(self, n_genes: int) -> Float64:
        """Return how much expression (`n_genes`,) grows with log depth, at the mean depth."""
        return _slope(self._table[:, :n_genes], np.array([self.log_depth]))[0]

    def score_norms(self, programs: Programs) -> Float64:
        """Return the length (1 + program,) in scaled genes that a unit of each score decodes to."""
        slope = _slope(self._table, np.array([self.log_depth]))[0]
        return np.append(np.linalg.norm(slope / programs.gene_scale), programs.signal_fraction)


def _position(at: Float64) -> tuple[NDArray[np.intp], Float64]:
    """Return the row of the table below each log depth, and how far it is to the next, (site,) each."""
    place = np.clip((at - LOG_DEPTHS[0]) / (LOG_DEPTHS[1] - LOG_DEPTHS[0]), 0, N_DEPTHS - 1)
    row = np.minimum(place.astype(np.intp), N_DEPTHS - 2)
    return row, (place - row)[:, None]


def _interpolated(table: Float64, at: Float64) -> Float64:
    """Return rows (site, gene) of `table` (depth, gene) at log depths (site,)."""
    found = np.empty((len(at), table.shape[1]))
    for rows in _parts(at):
        row, share = _position(at[rows])
        found[rows] = table[row] * (1 - share) + table[row + 1] * share
    return found


def _parts(rows: Float64) -> Iterator[slice]:
    """Return parts of rows, at least one, for which temporary arrays are small."""
    return row_chunks(max(len(rows), 1))


def _sum(parts: Iterable[Float64]) -> Float64:
    first, *others = parts
    return sum(others, first)


def _slope(table: Float64, at: Float64) -> Float64:
    row, _ = _position(at)
    return (table[row + 1] - table[row]) / (LOG_DEPTHS[1] - LOG_DEPTHS[0])


def counting_variance(rate: Float64, depth: Float64) -> Float64:
    """Return the mean over spots of `depth` (spot,) of the variance (gene,) that counting adds to expression."""
    row, share = _position(log_depth(depth))
    weights = np.zeros(N_DEPTHS)
    np.add.at(weights, row, 1 - share[:, 0])
    np.add.at(weights, row + 1, share[:, 0])
    used = np.flatnonzero(weights)
    variances = [_moments(rate * np.exp(LOG_DEPTHS[i]), float(np.exp(LOG_DEPTHS[i])))[1] for i in used]
    return np.average(variances, axis=0, weights=weights[used])


@cache
def _expression_by_count() -> Float64:
    """Return expected expression (depth of `LOG_DEPTHS`, mean count of `MEAN_COUNTS`), the same for every gene."""
    return np.stack([_moments(MEAN_COUNTS, depth)[0] for depth in np.exp(LOG_DEPTHS)])


def simulate_counts(rng: np.random.Generator, expected: Float64, at: Float64) -> Float64:
    """Return log1p of counts per 10 000 (site, gene) of counts drawn so that `expected` is its mean.

    `at` (site,) is the log depth at which each site is counted.
    """
    curves = _interpolated(_expression_by_count(), at)  # (site, mean count): rising, so it can be inverted
    drawn = np.empty_like(expected)
    for site, (curve, wanted) in enumerate(zip(curves, expected, strict=True)):
        drawn[site] = rng.poisson(np.interp(wanted, curve, MEAN_COUNTS))
    return np.log1p(TARGET_SUM * drawn / np.exp(np.clip(at, LOG_DEPTHS[0], LOG_DEPTHS[-1]))[:, None])

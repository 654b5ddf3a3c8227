"""Joint posterior draws: maps that vary as measurements do, where a prediction, being a mean, is too smooth.

A draw of the program scores is a function over the whole section, so that sites can be evaluated in any chunks: a
sample of the prior, plus the prediction of what it misses at the measured spots (Matheron's rule). Samples of the
prior are random coefficients on the image features, and random Fourier features for the kernels of space. Spot-to-spot
variation of the scores, the rest of each gene's variation, and counting are added on top.

References
----------
Wilson et al. 2020, ICML 119:10292 (pathwise conditioning); Rahimi and Recht 2007, NIPS 20 (random Fourier features).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spamcaf.model.data import SECTION_OFFSET_UM, TARGET, ImageFeatures, ReferenceSpots, SectionMeans
from spamcaf.model.depth import counting_variance, simulate_counts
from spamcaf.model.fitted import ModeParameters, SpamcafModel
from spamcaf.model.gaussian_process import IMAGE_KERNELS, LENGTH_SCALES_PITCHES, SPACE_KERNELS, rms_norm, space_scale
from spamcaf.model.predict import condition_on, iter_sites, take_context
from spamcaf.sections.sites import Measured, SiteSource

N_FOURIER = 1500
"""Random frequencies of each kernel of space: covariances are right within about .03."""
DEGREES = (3.0, 3.0, 1.0)
"""Twice the smoothness of each kernel of space: Matern-3/2, Matern-3/2, and the exponential, which is Matern-1/2."""
MAX_SCALE_SPOTS = 1000

Noise = Literal["none", "gene", "counts"]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class _PriorSample:
    """One sample of the prior of every score, as a function of image features and position."""

    image: Float64  # (image kernel, component, score) coefficients, weights included
    frequency: Float64 | None  # (space kernel, Fourier feature, 2) per micrometre; None without positions
    phase: Float64  # (space kernel, Fourier feature)
    space: Float64  # (space kernel, Fourier feature, score) amplitudes, weights included
    scales: tuple[float, float]  # divisors of the image features

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        weights: Float64,
        n_components: int,
        scales: tuple[float, float],
        space_scales: Float64 | None,
        pitch_um: float,
    ) -> _PriorSample:
        """Draw a sample for kernel weights (score, kernel); no `space_scales` (space kernel,) without positions."""
        n_scores, n_image = len(weights), len(IMAGE_KERNELS)
        roots = np.sqrt(weights.T)[:, None]  # (kernel, 1, score)
        image = rng.normal(size=(n_image, n_components, n_scores)) * roots[:n_image]
        if space_scales is None:
            return cls(image, None, np.empty(0), np.empty(0), scales)
        size = (len(SPACE_KERNELS), N_FOURIER)
        # The spectral density of a Matern kernel in the plane is a Student t distribution with 2 nu degrees.
        degrees = np.array(DEGREES)[:, None]
        spread = np.sqrt(degrees / rng.chisquare(degrees, size)) / (np.array(LENGTH_SCALES_PITCHES)[:, None] * pitch_um)
        frequency = rng.normal(size=(*size, 2)) * spread[..., None]
        amplitude = rng.normal(size=(*size, n_scores)) * np.sqrt(2 / N_FOURIER) * roots[n_image:]
        return cls(
            image,
            frequency,
            rng.uniform(0, 2 * np.pi, size),
            amplitude / np.sqrt(space_scales)[:, None, None],
            scales,
        )

    def at(self, image_features: ImageFeatures, xy_um: Float64) -> Float64:
        """Return the sample (site, score), without what the PCA left out of the features."""
        parts = (image_features.target / self.scales[0], image_features.neighbourhood / self.scales[1])
        value: Float64 = np.sum([part @ image for part, image in zip(parts, self.image, strict=True)], axis=0)
        if self.frequency is None:
            return value
        for frequency, phase, amplitude in zip(self.frequency, self.phase, self.space, strict=True):
            value = value + np.cos(xy_um @ frequency.T + phase) @ amplitude
        return value


def draw_expression(
    model: SpamcafModel,
    context: Measured | None,
    sites: SiteSource,
    mean: NDArray[np.floating],
    n_draws: int,
    noise: Noise,
    seed: int,
) -> NDArray[np.float32]:
    """Draw expression at sites from the posterior, jointly over sites and genes.

    Parameters
    ----------
    model, context, sites
        As for `predict_spamcaf`.
    mean : (site, gene)
        The prediction at the sites, which the draws vary around.
    n_draws : int
    noise : str
        none: only what the model predicts varies, as expression without the noise of a measurement. gene: with the
        rest of each gene's variance, normal, cut at 0. counts: as measured, with counts drawn at a drawn depth.
    seed : int

    Returns
    -------
    (draw, site, gene) float32
        log1p of counts per 10 000.
    """
    n_scores = model.sizes["score"]
    mode, means, known = take_context(model, context, sites)
    known = known.first_columns(n_scores)
    rng = np.random.default_rng(seed)
    samples = [_sample(rng, model, mode, known, has_positions=context is not None) for _ in range(n_draws)]
    # The prediction is linear in the scores: a draw's correction is the prediction of what its sample misses.
    is_centred = len(known) <= model.fit.max_exact_spots
    missed, offsets = zip(*(_missed(rng, sample, mode, known, is_centred) for sample in samples), strict=True)
    numbers = np.arange(n_scores)
    hyper = replace(
        mode.hyper,
        weights=mode.hyper.weights[:n_scores],
        noise=mode.hyper.noise[:n_scores],
        covariance_of=np.tile(numbers, 1 + n_draws),
    )
    columns = replace(known, scores=np.hstack([known.scores, *missed]))
    gp = condition_on(model, hyper, columns, use_positions=context is not None)
    variances = _Variances.of_model(model, mode, means, known)
    drawn = np.empty((n_draws, len(sites), model.sizes["gene"]), np.float32)
    for rows, chunk, image_features in iter_sites(model, means, sites, gp.n_spots):
        corrected, _ = gp.at(image_features, chunk.xy_um)
        by_draw = corrected.reshape(len(chunk), 1 + n_draws, n_scores)
        left_out, decoded = _left_out(image_features, mode, known), variances.decode(by_draw[:, 0])
        for d, (sample, offset) in enumerate(zip(samples, offsets, strict=True)):
            scores = by_draw[:, 1 + d] + sample.at(image_features, chunk.xy_um) - offset
            scores += rng.normal(size=scores.shape) * left_out
            drawn[d, rows] = variances.measured(rng, mean[rows] - decoded, scores, noise)
    return drawn


def _sample(
    rng: np.random.Generator, model: SpamcafModel, mode: ModeParameters, known: ReferenceSpots, *, has_positions: bool
) -> _PriorSample:
    features, n_scores = known.image_features, model.sizes["score"]
    scales = rms_norm(features.target), rms_norm(features.neighbourhood)
    space = None
    if has_positions:
        own = known.xy_um[known.section == TARGET][:MAX_SCALE_SPOTS]
        space = space_scale(own, model.pitch_um).astype(np.float64)
    n_components = features.target.shape[1]
    return _PriorSample.draw(rng, mode.hyper.weights[:n_scores], n_components, scales, space, model.pitch_um)


def _missed(
    rng: np.random.Generator, sample: _PriorSample, mode: ModeParameters, known: ReferenceSpots, is_centred: bool
) -> tuple[Float64, Float64]:
    """Return scores (spot, score) less the sample and a draw of their noise, and the sample's offset (score,).

    The exact process has kernels centred over each section's spots, so its samples have a mean of 0 there.
    """
    # sections apart: there the waves of a sample have other phases, so that sections are independent
    prior = sample.at(known.image_features, known.xy_um + (known.section * SECTION_OFFSET_UM)[:, None])
    offset = np.zeros(prior.shape[1])
    if is_centred and sample.frequency is not None:
        for number in np.unique(known.section):
            rows = known.section == number
            mean = prior[rows].mean(axis=0)
            prior[rows] -= mean
            offset = mean if number == TARGET else offset
    noise = np.column_stack([mode.hyper.noise_of(known.depth, j) for j in range(known.scores.shape[1])])
    return known.scores - prior - rng.normal(size=noise.shape) * np.sqrt(noise), offset


def _left_out(image_features: ImageFeatures, mode: ModeParameters, known: ReferenceSpots) -> Float64:
    """Return the standard deviation (site, score) of what the PCA left out of the sites' features."""
    scales = np.array([rms_norm(known.image_features.target), rms_norm(known.image_features.neighbourhood)])
    weights = mode.hyper.weights[: known.scores.shape[1], : len(IMAGE_KERNELS)]
    return np.sqrt((image_features.residual_norm2 / scales**2) @ weights.T)


@dataclass(frozen=True)
class _Variances:
    """Where the variance of a measurement comes from that the prediction does not explain."""

    model: SpamcafModel
    means: SectionMeans
    score: Float64  # (score,) spot-to-spot variance of the scores
    gene: Float64  # (gene,) what is left of a gene's variance, counting aside
    whole: Float64  # (gene,) all that the prediction leaves of a gene's variance

    @classmethod
    def of_model(
        cls, model: SpamcafModel, mode: ModeParameters, means: SectionMeans, known: ReferenceSpots
    ) -> _Variances:
        """Split the noise of scores and genes into variation between spots and the noise of counting."""
        programs, n_genes = model.programs, model.sizes["gene"]
        counting = counting_variance(means.expression.rate, known.depth)
        noise = np.array([mode.hyper.noise_of(known.depth, j).mean() for j in range(model.sizes["score"])])
        # A program's noise holds that of counting each gene, which is drawn by itself.
        by_counting = np.square(programs.loadings / programs.gene_scale) @ counting
        score = np.append(noise[0], np.maximum(noise[1:] - by_counting, 0))
        carried = means.expression.decode_variance(programs, np.zeros((1, len(score))), score[None])[0]
        gene = np.maximum(mode.stacking.gene_noise - carried - counting[:n_genes], 0)
        return cls(model, means, score, gene, mode.stacking.gene_noise)

    def decode(self, scores: Float64) -> Float64:
        """Return expression (site, gene) of `scores` (site, score)."""
        return self.means.expression.decode(self.model.programs, scores)

    def measured(
        self, rng: np.random.Generator, shift: NDArray[np.floating], scores: Float64, noise: Noise
    ) -> NDArray[np.floating]:
        """Return a draw of expression (site, gene) for drawn `scores` (site, score).

        `shift` (site, gene) is what the prediction adds to its own decoded scores.
        """
        if noise == "counts":
            scores = scores + rng.normal(size=scores.shape) * np.sqrt(self.score)
        drawn = self.decode(scores) + shift
        if noise == "none":
            return np.maximum(drawn, 0)
        rest = rng.normal(size=drawn.shape)
        if noise == "gene":
            return np.maximum(drawn + rest * np.sqrt(self.whole), 0)
        drawn = np.maximum(drawn + rest * np.sqrt(self.gene), 0)
        return simulate_counts(rng, drawn, self.means.expression.log_depth + scores[:, 0])

"""Baseline: kriging, that is a Gaussian process on the coordinates alone, one kernel for all genes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from spamcaf.sections.sites import Measured, SiteSource

_MAX_HYPER_SPOTS = 500
_N_SKETCHES = 64
_SITES_PER_BLOCK = 2000
_STOP = {"maxiter": 50, "ftol": 1e-7, "gtol": 1e-5}
"""Of the mean log likelihood of one value: far below what moves a prediction."""


def predict(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32: the posterior mean of a Matern-3/2 process plus white noise.

    The kernel's three numbers maximise the marginal likelihood on at most 500 spots; the fit itself is exact on all.
    """
    origin_um = measured.sites.xy_um.mean(axis=0)
    spots = (measured.sites.xy_um - origin_um) / pitch_um  # (spot, 2), in pitches
    places = (sites.xy_um - origin_um) / pitch_um
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    residual = measured.expression - mean
    scale = float(residual.std())
    if scale == 0:
        return np.repeat(mean[None, :].astype(np.float32), len(sites), axis=0)
    kernel = _learn_kernel(spots, residual / scale, np.random.default_rng(seed))
    process = GaussianProcessRegressor(kernel, optimizer=None).fit(spots, residual / scale)
    prediction = np.empty((len(sites), len(mean)), dtype=np.float32)
    for start in range(0, len(sites), _SITES_PER_BLOCK):
        block = slice(start, start + _SITES_PER_BLOCK)
        # scikit-learn drops the gene axis when there is one gene
        prediction[block] = mean + scale * process.predict(places[block]).reshape(-1, len(mean))
    return prediction


def _learn_kernel(spots: NDArray[np.float64], values: NDArray[np.float64], rng: np.random.Generator) -> Kernel:
    """Return the kernel that maximises the marginal likelihood of `values` (spot, gene), which have unit variance."""
    start = ConstantKernel(0.3, (1e-4, 1e2)) * Matern(3.0, (0.5, 50.0), nu=1.5) + WhiteKernel(0.7, (1e-3, 1e1))
    chosen = rng.permutation(len(spots))[:_MAX_HYPER_SPOTS]
    sketch = _sketch(values[chosen], rng)
    process = GaussianProcessRegressor(start, optimizer=None).fit(spots[chosen], sketch)

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        likelihood, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
        return -likelihood / sketch.size, -gradient / sketch.size

    found = minimize(loss, start.theta, jac=True, method="L-BFGS-B", bounds=start.bounds, options=_STOP)
    return start.clone_with_theta(found.x)


def _sketch(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return random mixtures of the genes: in expectation their likelihood is that of all genes, at a fixed cost.

    scikit-learn's gradient holds a (spot, spot, output) array, 2 GB for 500 spots and 1000 genes.
    """
    n_genes = values.shape[1]
    if n_genes <= _N_SKETCHES:
        return values
    return values @ rng.standard_normal((n_genes, _N_SKETCHES)) / np.sqrt(n_genes)

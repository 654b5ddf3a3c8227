"""The baselines that every model must beat, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV

from spamcaf.errors import InputError
from spamcaf.names import Model
from spamcaf.sections.sites import CHUNK, Measured, Sites, SiteSource, iter_chunks


def gene_mean(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32: the mean of each gene. `pitch_um` and `seed` belong to the common signature."""
    mean = measured.expression.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.repeat(mean[None, :], len(sites), axis=0)


def nearest_spot(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32: what the nearest spot shows. `pitch_um` and `seed`: the common signature."""
    _, nearest = cKDTree(measured.sites.xy_um).query(sites.xy_um)
    return measured.expression[nearest].astype(np.float32)


_N_NEIGHBOURS = 8
_POWER = 2
_NEAREST_PITCHES = 1e-3
"""Distances below this share of a pitch count as this, so that a site on a spot takes the spot's own value."""


def idw(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32 by inverse-distance weighting. `seed` belongs to the common signature."""
    n_neighbours = min(_N_NEIGHBOURS, len(measured))
    ranks = list(range(1, n_neighbours + 1))  # a list keeps scipy's answer two-dimensional for one neighbour
    distance_um, index = cKDTree(measured.sites.xy_um).query(sites.xy_um, k=ranks)
    weight = np.maximum(distance_um / pitch_um, _NEAREST_PITCHES) ** -_POWER  # (site, neighbour)
    weight /= weight.sum(axis=1, keepdims=True)
    pointer = np.arange(len(sites) + 1) * n_neighbours
    shares = csr_array((weight.ravel(), index.ravel(), pointer), shape=(len(sites), len(measured)))
    return np.asarray(shares @ measured.expression, dtype=np.float32)


_MAX_HYPER_SPOTS = 500
_N_SKETCHES = 64
_SITES_PER_BLOCK = 2000
_STOP = {"maxiter": 50, "ftol": 1e-7, "gtol": 1e-5}
"""Of the mean log likelihood of one value: far below what moves a prediction."""


def kriging(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
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


_N_COMPONENTS = 64
_ALPHAS = np.logspace(-4, 4, 41)
"""Wide on purpose: on HEST-Bench tuning alpha alone moves UNI2-h from .4083 to .4338."""


def ridge(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32 from target features and the mean of the 9 tiles; alpha by leave-one-out.

    Features are centred and scaled by one number. Scaling each by its own deviation would blow up nearly dead
    channels (an MSE of 1.6 on a her2st section). `pitch_um` belongs to the common signature.
    """
    features = _features(measured.sites)
    centre = features.mean(axis=0)
    features -= centre
    scale = float(np.sqrt((features**2).sum(axis=1).mean()))
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    if scale == 0:  # every spot looks the same: nothing to regress on
        return np.repeat(mean[None, :].astype(np.float32), len(sites), axis=0)
    n_components = min(_N_COMPONENTS, len(measured) - 1, features.shape[1])
    reducer = PCA(n_components, random_state=seed).fit(features / scale)
    model = RidgeCV(_ALPHAS).fit(reducer.transform(features / scale), measured.expression - mean)
    seen = np.concatenate([reducer.transform((_features(part) - centre) / scale) for part in iter_chunks(sites, CHUNK)])
    return (mean + model.predict(seen).reshape(len(sites), -1)).astype(np.float32)


def _features(sites: Sites) -> NDArray[np.float64]:
    """Return (site, 2 x feature): the target's features beside the mean of its 3 x 3 tiles."""
    return np.hstack([sites.target, sites.neighbours.mean(axis=1)]).astype(np.float64)


_N_PROGRAMS = 5


def kriging_ridge_programs(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
    """Return (site, gene) float32, kriging and ridge fitted afresh."""
    by_place = kriging(measured, sites, pitch_um, seed)
    by_picture = ridge(measured, sites, pitch_um, seed)
    return mean_on_programs(measured, by_place, by_picture)


def mean_on_programs(
    measured: Measured, by_place: NDArray[np.float32], by_picture: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the mean of two (site, gene) predictions, projected on the programs of the measured expression.

    A program is a right singular vector of the centred expression, each gene divided by the square root of its
    standard deviation: between raw values, which a few strong genes rule, and standardised ones, which noise rules.
    """
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    centred = measured.expression - mean
    scale = np.sqrt(centred.std(axis=0))
    scale[scale == 0] = 1.0
    programs = np.linalg.svd(centred / scale, full_matrices=False)[2][:_N_PROGRAMS]  # (program, gene)
    mixed = ((by_place + by_picture) / 2 - mean) / scale
    return (mean + (mixed @ programs.T) @ programs * scale).astype(np.float32)


RECOVERY = (Model.GENE_MEAN, Model.IDW, Model.KRIGING, Model.RIDGE, Model.KRIGING_RIDGE_PROGRAMS)
"""Baselines at hidden spots."""

SUPER_RESOLUTION = (Model.GENE_MEAN, Model.NEAREST_SPOT, *RECOVERY[1:])
"""Baselines between the spots."""

TRANSFER = (Model.GENE_MEAN, Model.RIDGE)
"""Baselines of a section that was never measured: no neighbour tells anything."""

_PARTS = (Model.KRIGING, Model.RIDGE)
_MIN_SPOTS = 3


class Baseline(Protocol):
    """What each baseline's `predict` looks like."""

    def __call__(self, measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> NDArray[np.float32]:
        """Return (site, gene) float32 at `sites`, learned from `measured` alone."""
        ...


BASELINES: dict[str, Baseline] = {
    Model.GENE_MEAN: gene_mean,
    Model.NEAREST_SPOT: nearest_spot,
    Model.IDW: idw,
    Model.KRIGING: kriging,
    Model.RIDGE: ridge,
    Model.KRIGING_RIDGE_PROGRAMS: kriging_ridge_programs,
}


def load_baseline(name: str) -> Baseline:
    """Return the baseline called `name`; ValueError with the names there are otherwise."""
    if name not in SUPER_RESOLUTION:
        raise ValueError(f"Unknown baseline '{name}'. Choose from: {', '.join(SUPER_RESOLUTION)}.")
    return BASELINES[name]


def predict_all(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, names: Sequence[str] = RECOVERY
) -> dict[str, NDArray[np.float32]]:
    """Return each named baseline's (site, gene) prediction; kriging and ridge are fitted once, whoever needs them."""
    if len(measured) < _MIN_SPOTS:
        raise InputError(
            f"{len(measured)} visible spots.", f"at least {_MIN_SPOTS} for the baselines.", "Hide fewer spots."
        )
    parts = _PARTS if Model.KRIGING_RIDGE_PROGRAMS in names else ()
    fitters = {name: load_baseline(name) for name in (*parts, *names)}
    done: dict[str, NDArray[np.float32]] = {}
    for name, fit in fitters.items():
        if name == Model.KRIGING_RIDGE_PROGRAMS:
            done[name] = mean_on_programs(measured, *(done[part] for part in _PARTS))
        else:
            done[name] = fit(measured, sites, pitch_um, seed)
    return {str(name): done[name] for name in names}

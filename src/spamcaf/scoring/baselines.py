"""The baselines that every model must beat; `scoring.predictors` chooses among them and the published peers.

Each is a function of the measured spots, the sites to predict, the distance of neighbouring spots in micrometres and a
seed (not all use the last two); it returns expression (site, gene) float32 as log1p of counts per 10 000.

References
----------
.. [1] Thiessen (1911), Precipitation averages for large areas, Monthly Weather Review 39, 1082.
.. [2] Shepard (1968), A two-dimensional interpolation function for irregularly-spaced data, Proc. ACM, 517-524.
.. [3] Matheron (1963), Principles of geostatistics, Economic Geology 58, 1246-1266.
.. [4] Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, chapters 2 and 5.
.. [5] Hoerl and Kennard (1970), Ridge regression, Technometrics 12, 55-67.
.. [6] Jaume et al. (2024), HEST-1k, NeurIPS Datasets and Benchmarks: ridge on components as a benchmark of backbones.
.. [7] Bates and Granger (1969), The combination of forecasts, Operational Research Quarterly 20, 451-468.
.. [8] Eckart and Young (1936), The approximation of one matrix by another of lower rank, Psychometrika 1, 211-218.
.. [9] Hengl, Heuvelink and Rossiter (2007), About regression-kriging, Computers & Geosciences 33, 1301-1315.
.. [10] Friedman (2001), Greedy function approximation: a gradient boosting machine, Annals of Statistics 29, 1189-1232.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from spamcaf.errors import InputError
from spamcaf.model.depth import log_depth
from spamcaf.model.programs import scaled_svd
from spamcaf.sections.sites import CHUNK, IN_MEMORY, Measured, Sites, SiteSource, iter_chunks, row_chunks

if TYPE_CHECKING:
    from sklearn.gaussian_process.kernels import Kernel

Expression = NDArray[np.float32]


def gene_mean(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict each gene's mean over the measured spots, everywhere."""
    mean = measured.expression.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.repeat(mean[None, :], len(sites), axis=0)


def gene_median(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict each gene's median over the measured spots, everywhere: the constant of least absolute error."""
    median = np.median(measured.expression, axis=0).astype(np.float32)
    return np.repeat(median[None, :], len(sites), axis=0)


def nearest_spot(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict the expression of the nearest measured spot [1]_."""
    _, nearest = cKDTree(measured.sites.xy_um).query(sites.xy_um)
    return measured.expression[nearest].astype(np.float32)


_N_NEIGHBOURS = 8
_POWER = 2
_NEAREST_PITCHES = 1e-3
"""Distances below this share of a pitch count as this, so that a site on a spot takes the spot's own value."""


def idw(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict by inverse-distance weighting of the 8 nearest measured spots [2]_."""
    n_neighbours = min(_N_NEIGHBOURS, len(measured))
    ranks = range(1, n_neighbours + 1)  # ranks keep scipy's result two-dimensional for one neighbour
    distance_um, index = cKDTree(measured.sites.xy_um).query(sites.xy_um, k=ranks)
    weight = np.maximum(distance_um / pitch_um, _NEAREST_PITCHES) ** -_POWER  # (site, neighbour)
    weight /= weight.sum(axis=1, keepdims=True)
    pointer = np.arange(len(sites) + 1) * n_neighbours
    weights = csr_array((weight.ravel(), index.ravel(), pointer), shape=(len(sites), len(measured)))
    return np.asarray(weights @ measured.expression, dtype=np.float32)


_MAX_HYPER_SPOTS = 500
_N_SKETCHES = 64
_SITES_PER_BLOCK = 2000
_MAX_EXACT_SPOTS, _N_NEAREST = 5000, 64
"""The exact posterior is cubic in the spots, 25 GB for 40 000; beyond the nearest spots hardly any weight is left."""
_STOP = {"maxiter": 50, "ftol": 1e-7, "gtol": 1e-5}
"""Of the mean log likelihood of one value: far below what moves a prediction."""


def kriging(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict the posterior mean of a Gaussian process over position, Matern-3/2 plus white noise [3]_.

    All genes share the kernel's three hyper-parameters, which maximise the marginal likelihood [4]_ of at most 500
    spots. The posterior is exact on all spots; of more than 5000 spots, each site is kriged from the 64 nearest.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor

    origin_um = measured.sites.xy_um.mean(axis=0)
    spots = (measured.sites.xy_um - origin_um) / pitch_um  # (spot, 2), in pitches
    targets = (sites.xy_um - origin_um) / pitch_um
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    residual = measured.expression - mean
    scale = float(residual.std())
    if scale == 0:
        return gene_mean(measured, sites, pitch_um, seed)
    kernel = _learn_kernel(spots, residual / scale, np.random.default_rng(seed))
    if len(spots) > _MAX_EXACT_SPOTS:
        return (mean + scale * _krige_locally(kernel, spots, residual / scale, targets)).astype(np.float32)
    process = GaussianProcessRegressor(kernel, optimizer=None).fit(spots, residual / scale)
    prediction = np.empty((len(sites), len(mean)), dtype=np.float32)
    for block in row_chunks(len(sites), _SITES_PER_BLOCK):
        # scikit-learn drops the gene axis when there is one gene
        prediction[block] = mean + scale * process.predict(targets[block]).reshape(-1, len(mean))
    return prediction


def _krige_locally(
    kernel: Kernel, spots: NDArray[np.float64], values: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the posterior mean (site, gene) of `values` (spot, gene), of each site given its 64 nearest spots."""
    variance, length, noise = np.exp(kernel.theta)
    n_near = min(_N_NEAREST, len(spots))
    _, index = cKDTree(spots).query(targets, k=np.arange(1, n_near + 1))
    weights = np.empty(index.shape)

    def covariance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = np.sqrt(3) * np.linalg.norm(a[:, :, None] - b[:, None], axis=-1) / length  # Matern-3/2
        return np.asarray(variance * (1 + scaled) * np.exp(-scaled))

    for rows in row_chunks(len(targets), _SITES_PER_BLOCK):
        near = spots[index[rows]]
        inside = covariance(near, near) + noise * np.eye(n_near)
        weights[rows] = np.linalg.solve(inside, covariance(near, targets[rows, None]))[..., 0]
    pointer = np.arange(len(targets) + 1) * n_near
    return np.asarray(csr_array((weights.ravel(), index.ravel(), pointer), shape=(len(targets), len(spots))) @ values)


def _learn_kernel(spots: NDArray[np.float64], values: NDArray[np.float64], rng: np.random.Generator) -> Kernel:
    """Return the kernel that maximises the marginal likelihood of `values` (spot, gene), which have unit variance."""
    from scipy.optimize import minimize
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

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
    if (n_genes := values.shape[1]) <= _N_SKETCHES:
        return values
    return values @ rng.standard_normal((n_genes, _N_SKETCHES)) / np.sqrt(n_genes)


_N_COMPONENTS = 64
_ALPHAS = np.logspace(-4, 4, 41)
"""Wide on purpose: on HEST-Bench tuning alpha alone moves UNI2-h from .4083 to .4338."""


def ridge(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict by ridge regression on 64 principal components of the image features [5]_ [6]_.

    Features are those of the site's tile and the mean of its 3 x 3 tiles. The penalty is chosen by leave-one-out
    cross-validation.
    """
    from sklearn.linear_model import RidgeCV

    components = _image_components(measured, sites, seed)
    if components is None:
        return gene_mean(measured, sites, pitch_um, seed)
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    model = RidgeCV(_ALPHAS).fit(components[0], measured.expression - mean)
    return (mean + model.predict(components[1]).reshape(len(sites), -1)).astype(np.float32)


def _image_components(
    measured: Measured, sites: SiteSource, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return 64 principal components of the features at spots and at sites; None for features that do not vary.

    They are those of all measured spots, or of a random part of `IN_MEMORY` spots.
    """
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(seed).permutation(len(measured))[:IN_MEMORY]
    features = _features(measured.sites.at(np.sort(rows)))
    centre = features.mean(axis=0)
    features -= centre
    # One scale for all features: scaling each by its own deviation would blow up nearly constant ones (an MSE of 1.6
    # on a her2st section).
    scale = float(np.sqrt((features**2).sum(axis=1).mean()))
    if scale == 0:
        return None
    n_components = min(_N_COMPONENTS, len(features) - 1, features.shape[1])
    reducer = PCA(n_components, random_state=seed).fit(features / scale)

    def reduced(source: SiteSource) -> NDArray[np.float64]:
        parts = (reducer.transform((_features(part) - centre) / scale) for part in iter_chunks(source, CHUNK))
        return np.concatenate(list(parts))

    return reduced(measured.sites), reduced(sites)


def _features(sites: Sites) -> NDArray[np.float64]:
    """Return (site, 2 x feature): the target's features beside the mean of its 3 x 3 tiles."""
    return np.hstack([sites.target, sites.neighbours.mean(axis=1)]).astype(np.float64)


_N_PROGRAMS = 5


def kriging_ridge_programs(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, *known: Expression
) -> Expression:
    """Predict the mean of kriging and ridge [7]_, projected on the 5 leading gene programs of the measured spots [8]_.

    `known` are the predictions (site, gene) of kriging and ridge, where they are at hand.
    """
    kriged, regressed = known or [predict(measured, sites, pitch_um, seed) for predict in (kriging, ridge)]
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    scale, loadings = scaled_svd(measured.expression - mean)
    programs = loadings[:_N_PROGRAMS]
    mixed = ((kriged + regressed) / 2 - mean) / scale
    return (mean + (mixed @ programs.T) @ programs * scale).astype(np.float32)


def depth_only(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, *, positions: bool = True
) -> Expression:
    """Predict each gene by its least-squares line on log sequencing depth, the depth by kriging and ridge [7]_.

    How far depth alone gets: total counts follow the density and size of cells, and so do all genes, also as log1p of
    counts per 10 000. Without `positions` (spots of other sections) ridge alone predicts the depth.
    """
    depth = log_depth(measured.depth)[:, None]
    if np.ptp(depth) == 0:
        return gene_mean(measured, sites, pitch_um, seed)
    depths = replace(measured, expression=depth.astype(np.float32))
    predict = (kriging, ridge) if positions else (ridge,)
    predicted = np.mean([one(depths, sites, pitch_um, seed) for one in predict], axis=0, dtype=np.float64)
    lines = np.linalg.lstsq(np.hstack([np.ones_like(depth), depth]), measured.expression, rcond=None)[0]
    return (lines[:1] + predicted * lines[1:]).astype(np.float32)


_COLOUR_ALPHAS = np.logspace(-2, 6, 33)


def rgb_ridge(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict by ridge regression on mean and deviation of red, green and blue of the 3 x 3 tiles [5]_.

    How far the plainest look at the stain gets, without a network. Raises InputError for sites without `colours`.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    at = [_colours(part) for part in iter_chunks(sites, CHUNK)]
    model = make_pipeline(StandardScaler(), RidgeCV(_COLOUR_ALPHAS)).fit(
        _colours(measured.sites.at(slice(None))), measured.expression
    )
    return model.predict(np.concatenate(at)).reshape(len(sites), -1).astype(np.float32)


def _colours(sites: Sites) -> NDArray[np.float64]:
    if sites.colours is None:
        next_step = "Leave rgb_ridge out of evaluation.models."
        raise InputError("sites without the colours of their tiles.", "those too, for rgb_ridge.", next_step)
    return sites.colours.astype(np.float64)


def ridge_kriging(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict by ridge, and by kriging what it leaves at the measured spots [9]_."""
    left = measured.expression - ridge(measured, measured.sites, pitch_um, seed)
    return ridge(measured, sites, pitch_um, seed) + kriging(replace(measured, expression=left), sites, pitch_um, seed)


_N_BOOSTED = 8
_TREES = {"max_iter": 100, "learning_rate": 0.03, "max_depth": 3, "min_samples_leaf": 10, "early_stopping": False}


def boosted_programs(measured: Measured, sites: SiteSource, pitch_um: float, seed: int) -> Expression:
    """Predict the scores of the 8 leading gene programs by boosted trees on the components that ridge uses [10]_."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    components = _image_components(measured, sites, seed)
    if components is None:
        return gene_mean(measured, sites, pitch_um, seed)
    mean = measured.expression.mean(axis=0, dtype=np.float64)
    scale, loadings = scaled_svd(measured.expression - mean)
    programs = loadings[:_N_BOOSTED]
    scores = ((measured.expression - mean) / scale) @ programs.T
    trees = HistGradientBoostingRegressor(**_TREES, random_state=seed)
    with threadpool_limits(1, "openmp"):  # a few hundred rows: more threads would only wait for each other
        predicted = np.column_stack([trees.fit(components[0], score).predict(components[1]) for score in scores.T])
    return (mean + predicted @ programs * scale).astype(np.float32)

"""How well each gene is predicted: metrics per gene, Moran's I, coverage of intervals, and what can be reached."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.model.depth import log_depth
from spamcaf.names import Metric
from spamcaf.sections import panel
from spamcaf.sections.sites import ROWS, row_chunks

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[np.floating]

GENES_PER_BLOCK = 256
N_TOP = 50
GOOD_PCC = 0.3
_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # of the calibration curve
_MIN_SITES = 3
_MEANS = {
    Metric.SPEARMAN_MEAN: "spearman",
    Metric.PCC_DEPTH_REMOVED: "pearson_depth_removed",
    Metric.SSIM: "ssim",
    Metric.MSE: "mse",
    Metric.MAE: "mae",
    Metric.RMSE: "rmse",
}
_CONSTANT = 1e-6
"""A gene that varies by less than this share of its largest value is constant: float32 rounding reaches 1e-7."""


def score_genes(
    truth: Array,
    prediction: Array,
    genes: Sequence[str],
    model: str = "prediction",
    depth: NDArray[np.number] | None = None,
    windows: csr_array | None = None,
) -> pd.DataFrame:
    """Score a (site, gene) prediction against the truth, gene by gene.

    Returns a row per gene: gene, pearson, spearman, mse, mae, rmse, variance_ratio (predicted / true; NaN for a
    constant truth) and undefined. Where truth or prediction is constant, the correlation is undefined and counts as 0:
    a model that predicts a constant must not be better off than one that predicts badly.
    With the measured `depth` (site,) there is a column pearson_depth_removed, see `correlate_without_depth`.
    With `windows` (window, site), see `lattice_windows`, there is a column ssim; NaN for a constant truth.
    Raises ValueError where shapes disagree or a value is not finite, naming `model`.
    """
    _check(truth, prediction, genes, model)
    blocks = gene_blocks(len(genes))
    scores = pd.concat([_score_block(truth[:, b], prediction[:, b], windows) for b in blocks], ignore_index=True)
    scores.insert(0, "gene", list(genes))
    if depth is not None:
        blocks = blocks if len(truth) > ROWS else [slice(None)]  # of few sites all at once, as ever
        parts = [correlate_without_depth(truth[:, b], prediction[:, b], depth) for b in blocks]
        scores["pearson_depth_removed"] = np.nan_to_num(np.concatenate(parts))
    return scores


def gene_blocks(n_genes: int) -> list[slice]:
    """Return the parts of the genes that are computed at a time, which bounds the memory of many sites."""
    return list(row_chunks(n_genes, GENES_PER_BLOCK))


def summarise(gene_scores: pd.DataFrame) -> dict[str, float | int | None]:
    """Return a model's scores over all genes by `Metric`: means, unless the name states otherwise.

    `pcc_top50` averages the model's own 50 best genes, chosen by the very scores it averages: a flattering number that
    the field reports. `variance_ratio` is the median over genes, None where the truth of no gene varies, and
    `pcc_depth_removed` and `ssim` are None where they were not scored.
    """
    pearson = gene_scores["pearson"].to_numpy()
    ratio = gene_scores["variance_ratio"].dropna()
    summary = summarise_pearson(pearson)
    for key, column in _MEANS.items():
        scored = gene_scores[column].dropna() if column in gene_scores else ()
        summary[str(key)] = float(np.mean(scored)) if len(scored) else None
    summary[str(Metric.SHARE_ABOVE)] = float((pearson > GOOD_PCC).mean())
    summary[str(Metric.UNDEFINED)] = int(gene_scores["undefined"].sum())
    summary[str(Metric.VARIANCE_RATIO)] = float(ratio.median()) if len(ratio) else None
    return summary


def summarise_pearson(pearson: Array) -> dict[str, float | int | None]:
    """Return mean, median and top-50 mean of correlations (gene,) by `Metric`."""
    return {
        str(Metric.PCC_MEAN): float(pearson.mean()),
        str(Metric.PCC_MEDIAN): float(np.median(pearson)),
        str(Metric.PCC_TOP50): float(np.sort(pearson)[-N_TOP:].mean()),
    }


def correlate(a: Array, b: Array) -> Array:
    """Return the Pearson correlation of each column of two (site, gene) arrays, NaN where either is constant."""
    varies = ~(_is_constant(a) | _is_constant(b))
    a, b = a - a.mean(axis=0, dtype=np.float64), b - b.mean(axis=0, dtype=np.float64)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    found = np.divide((a * b).sum(axis=0), norm, out=np.full(len(norm), np.nan), where=varies & (norm > 0))
    return np.clip(found, -1.0, 1.0)


def correlate_without_depth(truth: Array, prediction: Array, depth: NDArray[np.number]) -> Array:
    """Return each gene's partial correlation (gene,) of truth and prediction, both (site, gene), given the log depth.

    It is the correlation of the residuals of both, each about its own line on the sites' measured log depth; NaN where
    either leaves no residual. Cellularity raises or lowers all genes with the depth: this tells their regulation from
    it.
    """
    x = log_depth(depth)
    x -= x.mean()
    norm2 = float(x @ x) if np.ptp(x) > 0 else 0.0
    residuals, explained = [], np.zeros(truth.shape[1], bool)
    for values in (truth.astype(np.float64), prediction.astype(np.float64)):
        residual = values - values.mean(axis=0)
        if norm2 > 0:
            residual -= np.outer(x, x @ residual / norm2)
        # against the values, not the residuals: a line on the depth leaves rounding errors, which vary
        explained |= np.ptp(residual, axis=0) <= _CONSTANT * np.abs(values).max(axis=0)
        residuals.append(residual)
    return np.where(explained, np.nan, correlate(*residuals))


def _is_constant(values: Array) -> NDArray[np.bool_]:
    return np.ptp(values, axis=0) <= _CONSTANT * np.abs(values).max(axis=0)


def _score_block(truth: Array, prediction: Array, windows: csr_array | None) -> pd.DataFrame:
    from scipy.stats import rankdata

    truth, prediction = truth.astype(np.float64), prediction.astype(np.float64)
    pearson = correlate(truth, prediction)
    undefined = np.isnan(pearson)
    spearman = correlate(rankdata(truth, axis=0), rankdata(prediction, axis=0))
    error = prediction - truth
    mse = (error**2).mean(axis=0)
    unknown = np.full(len(mse), np.nan)
    ratio = np.divide(prediction.var(axis=0), truth.var(axis=0), out=unknown, where=~_is_constant(truth))
    block = pd.DataFrame(
        {
            "pearson": np.where(undefined, 0.0, pearson),
            "spearman": np.where(undefined, 0.0, spearman),
            "mse": mse,
            "mae": np.abs(error).mean(axis=0),
            "rmse": np.sqrt(mse),
            "variance_ratio": ratio,
            "undefined": undefined,
        }
    )
    return block if windows is None else block.assign(ssim=structural_similarity(truth, prediction, windows))


def _check(truth: Array, prediction: Array, genes: Sequence[str], model: str) -> None:
    if truth.shape != prediction.shape or truth.ndim != 2 or truth.shape[1] != len(genes):  # noqa: PLR2004
        raise ValueError(
            f"{model}: expected truth and prediction as (site, {len(genes)} genes), found {truth.shape} and "
            f"{prediction.shape}. Select both by the same sites and genes."
        )
    if len(truth) < _MIN_SITES or not len(genes):
        found = f"{len(truth)} sites and {len(genes)} genes to score {model} at."
        expected = f"at least {_MIN_SITES} sites and 1 gene."
        raise InputError(found, expected, "Hide more spots or choose a larger panel.")
    for name, values in ((model, prediction), ("truth", truth)):
        if n_bad := int((~np.isfinite(values)).sum()):
            raise ValueError(
                f"{name}: found {n_bad} of {values.size} values that are NaN or infinite, expected none. "
                f"Look at what '{name}' is computed from; nothing was scored."
            )


_RADIUS = 3  # of a window of 7 x 7 lattice points, the default of scikit-image
_K1, _K2 = 0.01, 0.03  # the constants of the SSIM


def lattice_windows(index: NDArray[np.integer], lattice: str) -> csr_array | None:
    """Return the windows of 7 x 7 lattice points that `structural_similarity` compares, and the sites in each.

    The sites are pixels: a row of the array is a row of pixels, in which neighbouring spots are neighbours (every other
    row of a hexagonal array is half a pixel off). Each window is centred on a site and lies wholly inside the extent of
    the sites. Points that are no site (visible spots, glass) are left out of it.

    Parameters
    ----------
    index : (site, 2)
        array_col and array_row of each site.
    lattice : "hexagonal" or "square"

    Returns
    -------
    csr_array (window, site) or None
        1 where the site is in the window. None without a window that has 3 sites.
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    pixel = index // (2 if lattice == "hexagonal" else 1, 1)  # Visium counts columns in half pitches
    inside = (pixel - _RADIUS >= pixel.min(axis=0)) & (pixel + _RADIUS <= pixel.max(axis=0))
    centres = pixel[inside.all(axis=1)]
    found = cKDTree(pixel).query_ball_point(centres, _RADIUS + 0.5, p=np.inf) if len(centres) else []
    members = [sites for sites in found if len(sites) >= _MIN_SITES]
    if not members:
        return None
    pointer = np.concatenate([[0], np.cumsum([len(sites) for sites in members])])
    column = np.concatenate(members)
    return csr_array((np.ones(len(column)), column, pointer), shape=(len(members), len(pixel)))


def structural_similarity(truth: Array, prediction: Array, windows: csr_array) -> Array:
    """Return the structural similarity (SSIM) of each gene (gene,), the mean over windows; NaN for a constant truth.

    On a full rectangle of sites it equals that of scikit-image with its default window and constants. The data range is
    that of the gene's true values. Only scored sites count, unlike in maps that show measured spots beside predicted
    ones, whose SSIM rises with the share of measured spots.

    Parameters
    ----------
    truth, prediction : (site, gene)
    windows : (window, site)
        See `lattice_windows`.

    References
    ----------
    Wang, Bovik, Sheikh and Simoncelli (2004), Image quality assessment: from error visibility to structural similarity,
    IEEE Transactions on Image Processing 13, 600-612.
    """
    truth, prediction = truth.astype(np.float64), prediction.astype(np.float64)
    n = np.asarray(windows.sum(axis=1))[:, None]
    a, b = windows @ truth / n, windows @ prediction / n
    sample = n / (n - 1)
    variances = sample * (windows @ (truth**2 + prediction**2) / n - a**2 - b**2)
    covariance = sample * (windows @ (truth * prediction) / n - a * b)
    constant = _is_constant(truth)
    data_range = np.where(constant, 1.0, np.ptp(truth, axis=0))
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    similarity = (2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (variances + c2))
    return np.where(constant, np.nan, similarity.mean(axis=0))


def correlate_spots(truth: Array, prediction: Array) -> float:
    """Return the Pearson correlation over genes of each site's profile, (site, gene), as the mean over sites.

    An undefined one counts as 0. It is high for any prediction with the right mean of each gene, gene_mean included.
    """
    parts = [correlate(truth[rows].T, prediction[rows].T) for rows in row_chunks(len(truth))]
    return float(np.nan_to_num(np.concatenate(parts)).mean())


NEIGHBOURS = {"hexagonal": 6, "square": 4, "scattered": 6}  # of a spot on each lattice


def morans_i(values: Array, xy_um: Array, n_neighbours: int) -> Array:
    """Return Moran's I of each column of `values` (site, gene), NaN where it is constant.

    Each site's weight is shared equally by its `n_neighbours` nearest sites among `xy_um` (site, 2).
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    if (n_sites := len(xy_um)) <= n_neighbours:
        expected = f"Moran's I with {n_neighbours} neighbours needs more than {n_neighbours} sites"
        raise ValueError(f"{expected}, found {n_sites}.")
    _, found = cKDTree(xy_um).query(xy_um, k=n_neighbours + 1)
    # not simply found[:, 1:]: of two sites at one place either may come first
    keep = found != np.arange(n_sites)[:, None]
    keep[keep.all(axis=1), -1] = False
    pointer = np.arange(n_sites + 1) * n_neighbours
    weights = csr_array((np.full(keep.sum(), 1 / n_neighbours), found[keep], pointer), shape=(n_sites, n_sites))
    found = [panel.morans_i(values[:, genes], weights) for genes in gene_blocks(values.shape[1])]
    return np.where(_is_constant(values), np.nan, np.concatenate(found))


def moran_ratio(truth: Array, prediction: Array, xy_um: Array, n_neighbours: int) -> float | None:
    """Return mean Moran's I of the prediction / that of the truth, over genes where both are defined.

    Above 1 the prediction is smoother than the measurement. None where no gene is defined or the truth shows no
    positive autocorrelation to compare with. A ratio of means, for the ratio of one noisy gene may be anything.
    """
    true_i, predicted_i = (morans_i(values, xy_um, n_neighbours) for values in (truth, prediction))
    defined = np.isfinite(true_i) & np.isfinite(predicted_i)
    if not defined.any() or true_i[defined].mean() <= 0:
        return None
    return float(predicted_i[defined].mean() / true_i[defined].mean())


def gene_structure(truth: Array, prediction: Array) -> float | None:
    """Return how well gene-gene structure is kept: the correlation of the two correlation matrices of genes.

    Both are (site, gene), of as many genes, and may be of different sites; genes that are constant in either are left
    out, and each pair of different genes counts once. None with fewer than 3 such genes.
    """
    varies = ~(_is_constant(truth) | _is_constant(prediction))
    if varies.sum() < _MIN_SITES:
        return None
    pairs = np.triu_indices(int(varies.sum()), 1)
    both = [np.atleast_2d(np.corrcoef(values[:, varies].astype(np.float64).T)) for values in (truth, prediction)]
    return float(np.corrcoef(both[0][pairs], both[1][pairs])[0, 1])


def score_draws(truth: Array, draws: Array, xy_um: Array, n_neighbours: int) -> dict[str, float | int | None]:
    """Score draws (draw, site, gene) from the posterior by how much they look like the measurement (site, gene).

    Returns their number, the median over genes of the variance ratio and the ratio of mean Moran's I, both averaged
    over draws, and the gene-gene structure of all draws together, see `gene_structure`.
    """
    varies = ~_is_constant(truth)
    variance = [np.median(drawn[:, varies].var(axis=0) / truth[:, varies].var(axis=0)) for drawn in draws]
    moran = [ratio for drawn in draws if (ratio := moran_ratio(truth, drawn, xy_um, n_neighbours)) is not None]
    return {
        "n_draws": len(draws),
        str(Metric.VARIANCE_RATIO): float(np.mean(variance)),
        str(Metric.MORAN_RATIO): float(np.mean(moran)) if moran else None,
        "gene_structure": gene_structure(truth, np.concatenate(list(draws))),
    }


def interval_coverage(truth: Array, prediction: Array, sd: Array, level: float = 0.9) -> float:
    """Return the share of true values inside the central normal interval of probability `level`, all (site, gene).

    A value near `level` is right; below it the intervals are too narrow. `sd` must include the noise of a measurement,
    since the true values are measurements.
    """
    width = NormalDist().inv_cdf(0.5 + level / 2)
    return float((np.abs(truth - prediction) <= width * sd).mean())


def calibration(truth: Array, prediction: Array, sd: Array) -> list[list[float]]:
    """Return [level, coverage] of central intervals from 10 % to 99 %, see `interval_coverage`; equal is right."""
    distance = np.sort((np.abs(truth - prediction) / np.maximum(sd, 1e-12)).ravel())
    widths = [NormalDist().inv_cdf(0.5 + level / 2) for level in _LEVELS]
    inside = np.searchsorted(distance, widths, side="right") / len(distance)
    return [[level, float(share)] for level, share in zip(_LEVELS, inside, strict=True)]

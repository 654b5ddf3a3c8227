"""Tissue domains: clusters of measured and predicted expression against the labels of the spots."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.compute import threads_kept

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

LEIDEN, KMEANS = "leiden", "kmeans"
_N_COMPONENTS, _N_NEIGHBOURS = 50, 15
_MAX_SITES = 20_000  # exact neighbours of so many take 10 s, and of four times as many 16 times as long
_N_STARTS = 10  # of k-means; the best by its own criterion, which knows no labels
_MAX_TRIALS, _FACTOR = 20, 1.5  # of the search for a resolution, and its first steps
_FEWEST_LABELS = 2

Clusters = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledSites:
    """Sites that are clustered together, and the labels of those that have one."""

    expression: NDArray[np.floating]  # (site, gene), log1p of counts per 10 000
    labels: NDArray[np.object_]  # (site,), None where a site has no label: it is clustered, but not compared

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Whether each site (site,) has a label."""
        return np.array([label is not None for label in self.labels], bool)


def score_domains(sites: Mapping[str, LabelledSites], n_seeds: int, seed: int) -> dict[str, Any]:
    """Compare clusters of expression with the labels of the spots: `domains` of `scores.json`.

    Expression is reduced to 50 principal components and clustered by k-means, and by Leiden on the graph of the 15
    nearest neighbours, into as many clusters as there are labels: the resolution of Leiden is searched for that number.
    Labels have no other part in it. Leiden needs the package igraph, and is left out with a warning without it.

    Parameters
    ----------
    sites : dict of LabelledSites
        By what is clustered, such as measured, recovered and super_resolved expression.
    n_seeds : int
        Clusterings of each kind, at least 2.
    seed : int
        Of the first clustering; the others follow.

    Returns
    -------
    dict
        labels, n_seeds and, by what is clustered, n_sites, n_labelled and for each method ari and nmi (adjusted Rand
        index and normalised mutual information, each with mean and standard deviation over seeds, never the best one)
        and the mean n_clusters. Empty with fewer than 2 labels.

    References
    ----------
    Traag, Waltman and van Eck (2019), From Louvain to Leiden: guaranteeing well-connected communities, Sci. Rep. 9.
    Hubert and Arabie (1985), Comparing partitions, Journal of Classification 2, 193-218.
    """
    labels = sorted({str(label) for one in sites.values() for label in one.labels[one.is_labelled]})
    if len(labels) < _FEWEST_LABELS:
        return {}
    methods = [KMEANS] if find_spec("igraph") is None else [LEIDEN, KMEANS]
    if LEIDEN not in methods:
        logger.warning("clusters by k-means alone: Leiden needs igraph, under the GPL (pip install igraph)")
    found = {name: _score(_at_most(one, seed), len(labels), methods, n_seeds, seed) for name, one in sites.items()}
    return {"labels": labels, "n_seeds": n_seeds, "expression": found}


def describe_domains(scores: Mapping[str, Any]) -> list[str]:
    """Say in a sentence how well clusters agree with labels; `scores` is the record of `scores.json`."""
    domains = scores.get("domains")
    if not domains:
        return []
    parts = []
    for name, one in domains["expression"].items():
        found = [f"{method} {ari['mean']:.3f} ± {ari['sd']:.3f}" for method, ari in _indices(one)]
        parts.append(f"{name.replace('_', '-')} {', '.join(found)}")
    head = f"Clusters against {len(domains['labels'])} labels, adjusted Rand index over {domains['n_seeds']} seeds"
    return [f"{head} (mean ± sd): {'; '.join(parts)}."]


def _indices(one: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    for method, name in ((LEIDEN, "Leiden"), (KMEANS, "k-means")):
        if method in one:
            yield name, one[method]["ari"]


def _at_most(sites: LabelledSites, seed: int) -> LabelledSites:
    """Return at most 20 000 sites at random, those with a label first."""
    if len(sites.labels) <= _MAX_SITES:
        return sites
    order = np.random.default_rng(seed).permutation(len(sites.labels))
    order = order[np.argsort(~sites.is_labelled[order], kind="stable")]
    kept = np.sort(order[:_MAX_SITES])
    return LabelledSites(sites.expression[kept], sites.labels[kept])


def _score(sites: LabelledSites, n_labels: int, methods: list[str], n_seeds: int, seed: int) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = sites.is_labelled
    truth = sites.labels[known].astype(str)
    record: dict[str, Any] = {"n_sites": len(known), "n_labelled": int(known.sum())}
    with threads_kept():  # scanpy computes with numba
        reduced, seeds = _reduced(sites.expression, seed), range(seed, seed + n_seeds)
        for method in methods:
            # one cluster where all sites are the same: there are no components then
            clusterings = (
                list(_CLUSTER[method](reduced, n_labels, seeds)) if reduced is not None else [0 * known] * n_seeds
            )
            ari = [adjusted_rand_score(truth, clusters[known]) for clusters in clusterings]
            nmi = [normalized_mutual_info_score(truth, clusters[known]) for clusters in clusterings]
            n_clusters = float(np.mean([len(np.unique(clusters)) for clusters in clusterings]))
            record[method] = {"ari": _spread(ari), "nmi": _spread(nmi), "n_clusters": n_clusters}
    return record


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}


def _reduced(expression: NDArray[np.floating], seed: int) -> AnnData | None:
    """Return the principal components of expression (site, gene) as `obsm["X_pca"]`; None where it is constant."""
    if not np.ptp(expression, axis=0).any():
        return None
    import scanpy as sc
    from anndata import AnnData

    reduced = AnnData(np.ascontiguousarray(expression, np.float32))
    n_components = min(_N_COMPONENTS, *(n - 1 for n in expression.shape))
    sc.pp.pca(reduced, n_comps=n_components, random_state=seed)
    return reduced


def _kmeans(reduced: AnnData, n_clusters: int, seeds: range) -> Iterator[Clusters]:
    from sklearn.cluster import KMeans

    for seed in seeds:
        yield KMeans(n_clusters, n_init=_N_STARTS, random_state=seed).fit_predict(reduced.obsm["X_pca"])


def _leiden(reduced: AnnData, n_clusters: int, seeds: range) -> Iterator[Clusters]:
    import scanpy as sc

    # exact neighbours and scanpy's Gaussian kernel: the default (umap) compiles for 20 s or more in every process
    n_neighbours = min(_N_NEIGHBOURS, reduced.n_obs - 1)
    sc.pp.neighbors(reduced, n_neighbours, transformer="sklearn", method="gauss", random_state=seeds[0])
    resolution = 1.0
    for seed in seeds:
        clusters, resolution = _search_resolution(reduced, n_clusters, seed, resolution)
        yield clusters


def _search_resolution(reduced: AnnData, n_clusters: int, seed: int, resolution: float) -> tuple[Clusters, float]:
    """Return Leiden's clusters at a resolution that gives `n_clusters`, or as near to it as 20 trials come.

    The search starts at `resolution`, which was right for another seed, and goes on by bisection.
    """
    import scanpy as sc

    low, high = 0.0, np.inf
    trials: list[tuple[int, Clusters, float]] = []
    for _ in range(_MAX_TRIALS):
        sc.tl.leiden(reduced, flavor="igraph", n_iterations=2, directed=False, resolution=resolution, random_state=seed)
        clusters = reduced.obs["leiden"].cat.codes.to_numpy(np.int64)
        n_found = len(np.unique(clusters))
        trials.append((abs(n_found - n_clusters), clusters, resolution))
        if n_found == n_clusters:
            break
        if n_found < n_clusters:
            low = resolution
            resolution = float(np.sqrt(low * high)) if np.isfinite(high) else resolution * _FACTOR
        else:
            high = resolution
            resolution = float(np.sqrt(low * high)) if low > 0 else resolution / _FACTOR
    _, clusters, resolution = min(trials, key=lambda trial: trial[0])
    return clusters, resolution


_CLUSTER = {LEIDEN: _leiden, KMEANS: _kmeans}

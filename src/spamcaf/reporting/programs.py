"""What a model learned, as an AnnData: depth and gene programs at every site, and their gene loadings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.names import SPATIAL
from spamcaf.reporting.prediction import PROGRAMS
from spamcaf.sections.gene_names import find_genes, named

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spamcaf.peers.models import FittedModel

logger = logging.getLogger(__name__)

DEPTH = "log_depth"
LOADINGS = "loadings"
GENE_SET = "score_"  # obs columns of gene sets begin so


def program_map(model: FittedModel, map_: AnnData, gene_sets: Mapping[str, list[str]], seed: int) -> AnnData:
    """Return the scores of depth and gene programs at every site of a map, with the loadings of its genes.

    Parameters
    ----------
    model : SpamcafModel or ReleasedModel
        Which made the map; the released network has no programs, and the result then no columns.
    map_ : AnnData
        As `build_prediction` returns it, with `obsm["programs"]`.
    gene_sets : mapping
        Genes by the name of a set, symbols or Ensembl ids; each becomes a column `score_<name>` of obs: scanpy's
        score_genes, the mean over the set minus that over genes of like expression.
    seed : int
        Of the choice of those genes.

    Returns
    -------
    AnnData
        X (site, program) in units of log total counts (`log_depth`) and of program scores, from the section's mean;
        `varm["loadings"]` (program, gene), how much expression (log1p of counts per 10 000) a unit adds; var has each
        program's `signal_fraction` and the network's weight. Places and images are the map's.
    """
    import pandas as pd
    from anndata import AnnData

    from spamcaf.model.fitted import SpamcafModel

    if isinstance(model, SpamcafModel):
        slopes = model.means.slopes(model.programs.n_predicted)
        loadings = np.vstack([slopes, model.programs.decoder])
        names = [DEPTH, *(f"program_{number}" for number in range(1, len(loadings)))]
        var = pd.DataFrame(
            {
                "signal_fraction": [1.0, *model.programs.signal_fraction],
                "network_weight": model.within_section.stacking.network_weight,
            },
            index=names,
        )
        scores, varm = map_.obsm[PROGRAMS], {LOADINGS: pd.DataFrame(loadings, names, map_.var_names)}
    else:
        var, scores, varm = pd.DataFrame(index=pd.Index([], dtype=object)), np.empty((map_.n_obs, 0), np.float32), {}
    obs = map_.obs.join(gene_set_scores(map_, gene_sets, seed))
    places = {SPATIAL: map_.obsm[SPATIAL]}
    return AnnData(np.asarray(scores, np.float32), obs, var, obsm=places, varm=varm, uns=dict(map_.uns))


def gene_set_scores(map_: AnnData, gene_sets: Mapping[str, list[str]], seed: int) -> pd.DataFrame:
    """Return a column `score_<name>` (site,) per gene set that the map has genes of."""
    import pandas as pd
    import scanpy
    from anndata import AnnData

    scored, bare = pd.DataFrame(index=map_.obs_names), AnnData(map_.X, var=map_.var[[]])
    for name, requested in gene_sets.items():
        genes, absent = find_genes(requested, map_.var)
        if absent:
            logger.warning("gene set %s: the map has no %s", name, named(absent))
        if not genes:
            continue
        try:
            scanpy.tl.score_genes(bare, genes, score_name=name, random_state=seed)
        except RuntimeError:  # no genes of like expression are left to compare with
            bare.obs[name] = np.asarray(bare[:, genes].X).mean(axis=1) - np.asarray(bare.X).mean(axis=1)
        column = GENE_SET + name.replace("/", "_")  # HDF5 and Zarr take a slash for a folder
        scored[column] = bare.obs[name].to_numpy(np.float64)
    return scored

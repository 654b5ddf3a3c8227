"""Super-resolution against a measured truth: bins of Visium HD pooled to Visium spots, and predicted back.

Spots of 55 um, 100 um apart, are pooled from the bins under them. The model and the baselines learn from these spots,
and predict the bins that lie under none, whose counts nothing has seen.

python benchmarks/super_resolution.py

of a made-up section; of your own, once `kedro run --pipelines ingestion,feature_extraction` has read and embedded it:

python benchmarks/super_resolution.py --env own --section my_section --bin-um 16
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _hd_section import BIN_UM, MPP, HdTissue
from numpy.typing import NDArray

from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.names import GENE_IDS, SPATIAL, Metric, Model, display_name
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, PanelSettings
from spamcaf.peers.models import predict
from spamcaf.pipelines.joins import mpp_of, pitch_um_of, sites_of
from spamcaf.scoring.limits import noise_ceiling, summarise_ceiling
from spamcaf.scoring.predictors import DEFAULT, predict_all
from spamcaf.scoring.scores import SuperResolution, by_rank, score_super_resolution
from spamcaf.sections.panel import COUNTS, DEPTH, PROGRAM_GENES, choose_gene_panel, choose_program_genes
from spamcaf.sections.panel import normalise_expression as normalise
from spamcaf.sections.sites import Measured, Sites, SiteSource

SPOT_UM, PITCH_UM = 55.0, 100.0
LEAST_SHARE = 0.8
"""Of a spot's area that bins must cover."""
N_FOLDS, SEED = 5, 1234
SHOWN = (Metric.PCC_MEAN, Metric.PCC_TOP50, Metric.SPEARMAN_MEAN, Metric.SSIM, Metric.MSE, Metric.MORAN_RATIO)


@dataclass(frozen=True)
class Bins:
    """A section of bins: raw counts, and what gives the features at some of them."""

    section: Any  # AnnData, with array_row and array_col
    xy_um: NDArray[np.float64]
    bin_um: float
    features: Any  # (bin,) -> SiteSource


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    asked = _parser().parse_args(arguments)
    if asked.quick:
        asked.bins, asked.genes, asked.features, asked.predicted, asked.n_genes = 4000, 80, 12, 300, 40
    bins = stored_bins(asked) if asked.env else made_up_bins(asked.bins, asked.genes, asked.features)
    print(table(bins, asked.predicted, asked.n_genes, asked.epochs))


def table(bins: Bins, n_predicted: int, n_genes: int, epochs: int) -> str:
    """Pool, fit, predict and score; return the scores of every model as Markdown."""
    centres, members = lay_spots(bins)
    spots = pool(bins, centres, members)
    panel = choose_gene_panel(spots, PanelSettings(n_genes=n_genes))
    more = choose_program_genes(spots, panel, PanelSettings().n_program_genes)
    measured = measure(bins, normalise(spots, panel, more), centres)
    free = np.flatnonzero(np.asarray(members.sum(axis=0)).ravel() == 0)
    at = np.sort(np.random.default_rng(SEED).permutation(free)[:n_predicted])
    truth, sites = normalise(bins.section[at], panel), bins.features(at)
    compute = ComputeSettings()
    fit = FitSettings(epochs=epochs) if epochs else FitSettings(use_network=False)
    folds = np.random.default_rng(SEED).permutation(len(measured)) % N_FOLDS
    model = fit_spamcaf(TrainingSection(measured, folds), [], PITCH_UM, fit, NetworkSettings(), compute, SEED).model
    predicted = predict(model, measured, sites, compute)
    names = [*DEFAULT, str(Model.NEAREST_SPOT)]
    predictions = predict_all(measured, sites, PITCH_UM, SEED, names, compute=compute)
    predictions = {str(Model.SPAMCAF): predicted.mean, **predictions}
    genes, index = truth.var_names.tolist(), truth.obs[["array_col", "array_row"]].to_numpy(np.int64)
    factor = (PITCH_UM / bins.bin_um) ** 2 * np.sqrt(3) / 2
    scored = SuperResolution(factor, genes, bins.xy_um[at], np.asarray(truth.X), predictions, index)
    scores = score_super_resolution(scored, Model.SPAMCAF, "square", SEED)["models"]
    ceiling = noise_ceiling(truth.layers[COUNTS].toarray(), truth.obs[DEPTH].to_numpy(), genes, SEED)
    head = (
        f"{len(measured)} spots pooled from {len(bins.xy_um)} bins of {bins.bin_um:g} um; {len(at)} bins under no spot"
    )
    lines = [f"### Bins predicted from pooled spots ({head}, {len(genes)} genes)", ""]
    lines += [f"| | {' | '.join(m.value for m in SHOWN)} |", f"| {' | '.join(['---'] * (len(SHOWN) + 1))} |"]
    for name in by_rank(scores):
        lines.append(f"| {display_name(name)} | {' | '.join(_cell(scores[name][metric]) for metric in SHOWN)} |")
    top = summarise_ceiling(ceiling)[Metric.PCC_MEAN]
    return "\n".join([*lines, "", f"- Noise ceiling of the mean PCC at single bins: {top:.3f}.", ""])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def lay_spots(bins: Bins) -> tuple[NDArray[np.float64], Any]:
    """Return the centres (spot, 2) of a hexagonal array of spots on the bins, and which bins are in each, sparse."""
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    low, high = bins.xy_um.min(axis=0), bins.xy_um.max(axis=0)
    row, column = np.indices([int(extent / step) + 1 for extent, step in zip((high - low)[::-1], _STEPS, strict=True)])
    centres = np.column_stack([(column + 0.5 * (row % 2)).ravel(), (row * np.sqrt(3) / 2).ravel()]) * PITCH_UM + low
    found = cKDTree(bins.xy_um).query_ball_point(centres, SPOT_UM / 2)
    least = LEAST_SHARE * np.pi * (SPOT_UM / 2 / bins.bin_um) ** 2
    kept = [i for i, inside in enumerate(found) if len(inside) >= least]
    column_of = np.concatenate([found[i] for i in kept]).astype(np.intp)
    pointer = np.concatenate([[0], np.cumsum([len(found[i]) for i in kept])])
    ones = np.ones(len(column_of))
    return centres[kept], csr_array((ones, column_of, pointer), shape=(len(kept), len(bins.xy_um)))


_STEPS = (PITCH_UM * np.sqrt(3) / 2, PITCH_UM)


def pool(bins: Bins, centres: NDArray[np.float64], members: Any) -> Any:  # noqa: ANN401  sparse, AnnData
    """Return the spots as a section with the summed counts of their bins."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    names = [f"spot_{i}" for i in range(len(centres))]
    section = bins.section
    spots = AnnData(csr_matrix(members @ section.X), obs=pd.DataFrame(index=names), var=section.var[[GENE_IDS]])
    spots.obsm[SPATIAL] = centres
    return spots[np.asarray(spots.X.sum(axis=1)).ravel() > 0].copy()


def measure(bins: Bins, spots: Any, centres: NDArray[np.float64]) -> Measured:  # noqa: ANN401  AnnData
    """Return the spots as they are learned from; features are those of the bin in the middle of each."""
    from scipy.spatial import cKDTree

    xy_um = np.asarray(spots.obsm[SPATIAL])
    middle: Sites = bins.features(cKDTree(bins.xy_um).query(xy_um)[1]).at(slice(None))
    sites = Sites(xy_um, middle.target, middle.neighbours)
    others = np.asarray(spots.obsm[PROGRAM_GENES]) if PROGRAM_GENES in spots.obsm else None
    return Measured(sites, np.asarray(spots.X), spots.obs[DEPTH].to_numpy(np.float64), others)


def made_up_bins(n_bins: int, n_genes: int, n_features: int) -> Bins:
    """Return a made-up section."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    tissue = HdTissue(n_bins, n_genes, n_features)
    xy_um, index = tissue.xy_um[tissue.is_tissue], tissue.index[tissue.is_tissue]
    genes = [f"G{i}" for i in range(n_genes)]
    obs = pd.DataFrame({"array_col": index[:, 0], "array_row": index[:, 1]}, index=tissue.barcodes()[tissue.is_tissue])
    section = AnnData(csr_matrix(tissue.counts()), obs=obs, var=pd.DataFrame({GENE_IDS: genes}, index=genes))
    section.obsm[SPATIAL] = xy_um / MPP
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2) * 112.0

    def features(rows: NDArray[np.intp]) -> SiteSource:
        windows = tissue.features(xy_um[rows][:, None] + steps, np.random.default_rng(len(rows)))
        return Sites(xy_um[rows], windows[:, 4], windows)

    has_counts = np.asarray(section.X.sum(axis=1)).ravel() > 0
    assert has_counts.all(), "a bin without counts"
    return Bins(section, xy_um, BIN_UM, features)


def stored_bins(asked: argparse.Namespace) -> Bins:
    """Return the section of the project that ingestion and feature_extraction have stored."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(asked.project)
    chosen = {"section": asked.section, **({"bin_um": asked.bin_um} if asked.bin_um else {})}
    session: Any = KedroSession.create(project_path=asked.project, env=asked.env, runtime_params=chosen)
    with session:
        catalog = session.load_context().catalog
    section, stored = catalog.load("section"), catalog.load("spot_features")
    names, xy_um = section.obs_names, np.asarray(section.obsm[SPATIAL], np.float64) * mpp_of(section)
    stored.require_sites(names.tolist(), np.asarray(section.obsm[SPATIAL], np.float64))
    return Bins(section, xy_um, pitch_um_of(section), lambda rows: sites_of(names[rows].tolist(), xy_um[rows], stored))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, default=30_000, help="bins of the made-up section")
    parser.add_argument("--genes", type=int, default=2000, help="genes of the made-up section")
    parser.add_argument("--features", type=int, default=256, help="features of a tile of the made-up section")
    parser.add_argument("--predicted", type=int, default=10_000, help="bins that are predicted, at most")
    parser.add_argument("--n-genes", type=int, default=1000, help="genes that are predicted")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of the networks; 0: without networks")
    parser.add_argument("--project", type=Path, default=Path.cwd(), help="the project that holds your section")
    parser.add_argument("--env", help="your section's environment; without it a section is made up")
    parser.add_argument("--section", help="your section")
    parser.add_argument("--bin-um", type=int, help="its bin size")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    return parser


if __name__ == "__main__":
    main()

"""Nodes of the inference pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.features import Features
from spamcaf.histology.slide import Slide
from spamcaf.histology.tissue import Tissue
from spamcaf.limits import GIB, available_bytes
from spamcaf.names import SPATIAL, Part
from spamcaf.parameters import ComputeSettings, GridSettings, InferenceSettings
from spamcaf.pipelines.joins import (
    all_gene_ids,
    as_prediction,
    grid_sites,
    last_blocks_of,
    measured_spots,
    mpp_of,
    sites_of,
)
from spamcaf.pipelines.types import AnnData, Backbone, DataFrame, SpatialData, TrainedModel
from spamcaf.provenance import names_hash
from spamcaf.reporting.prediction import MEASURED
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.sites import SUB_INDEX, X_PX, Y_PX
from spamcaf.sections.sites import lay_grid as subdivide
from spamcaf.sections.split import barcodes_of

if TYPE_CHECKING:
    from spamcaf.histology.features import FeatureKey

logger = logging.getLogger(__name__)

VALUE_BYTES, N_LAYERS = 4, 3  # of a prediction: its mean, its standard deviation and that of the Gaussian process


def predict_hidden_spots(
    model: TrainedModel,
    expression: AnnData,
    spot_split: DataFrame,
    spot_features: Features,
    section: AnnData,
    tissue: Tissue,
    compute: ComputeSettings,
    inference: InferenceSettings,
    seed: int,
    load_backbone: Callable[[], Backbone],
) -> AnnData:
    """Predict the hidden spots from image and visible spots only; from the image alone where all are hidden.

    Rows are named by their barcodes; what was measured there is the layer `measured`, for comparison.
    """
    from spamcaf.peers.models import predict

    visible, hidden = barcodes_of(spot_split, Part.TRAIN), barcodes_of(spot_split, Part.HIDDEN)
    _require_match(model, expression, spot_features.key)
    model.require_spots(names_hash(visible))
    spot_features.require_sites(section.obs_names.tolist(), np.asarray(section.obsm[SPATIAL], np.float64))
    spots = section[hidden]
    table = subdivide(spots, lattice_of(section), 1)
    sites = sites_of(hidden, table[[X_PX, Y_PX]].to_numpy() * mpp_of(section), spot_features)
    context = measured_spots(expression, spot_features, visible) if visible else None
    last_blocks = last_blocks_of(load_backbone, model.n_finetuned, spot_features.key)
    predicted = predict(model.model, context, sites, compute, inference, seed, last_blocks)
    genes = section.var.loc[list(model.genes)]
    laid = GridSettings(subdivide=1)
    recovered = as_prediction(predicted, model, genes, table, sites.n_px_padded, section, tissue, laid)
    recovered.obs_names = hidden
    recovered.layers[MEASURED] = np.asarray(expression[hidden].X, np.float32)
    return recovered


def predict_grid(
    full_model: TrainedModel,
    expression: AnnData,
    spot_features: Features,
    grid_features: Features,
    grid: DataFrame,
    section: AnnData,
    tissue: Tissue,
    settings: GridSettings,
    compute: ComputeSettings,
    inference: InferenceSettings,
    seed: int,
    load_backbone: Callable[[], Backbone],
) -> AnnData:
    """Predict the sites between the spots with the model of all measured spots, all of them as context."""
    from spamcaf.peers.models import predict

    _require_match(full_model, expression, spot_features.key)
    full_model.require_features(grid_features.key)
    full_model.require_spots(names_hash(expression.obs_names))
    _require_room(len(grid), len(full_model.genes), inference.n_draws)
    sites = grid_sites(grid, spot_features, grid_features, mpp_of(section))
    context = measured_spots(expression, spot_features, expression.obs_names.tolist())
    last_blocks = last_blocks_of(load_backbone, full_model.n_finetuned, spot_features.key)
    predicted = predict(full_model.model, context, sites, compute, inference, seed, last_blocks)
    logger.info("%d sites predicted, %d of them between the spots", len(grid), (grid[SUB_INDEX] > 0).sum())
    genes = section.var.loc[list(full_model.genes)]
    return as_prediction(predicted, full_model, genes, grid, sites.n_px_padded, section, tissue, settings)


def _require_room(n_sites: int, n_genes: int, n_draws: int) -> None:
    """Raise InputError where the map does not fit into memory: X, two layers and the draws are held at once."""
    n_bytes, available = n_sites * n_genes * VALUE_BYTES * (N_LAYERS + n_draws), available_bytes()
    if available is not None and n_bytes > available:
        raise InputError(
            f"a map of {n_sites} sites, {n_genes} genes and {n_draws} draws, which takes {n_bytes / GIB:.1f} GiB of "
            f"memory; {available / GIB:.1f} GiB are available.",
            "a map that fits into memory.",
            "Predict fewer sites (a larger grid.pitch_um, or a smaller grid.subdivide), fewer genes (panel.n_genes), "
            "or fewer draws (inference.n_draws).",
        )


def describe_programs(
    full_model: TrainedModel, super_resolved: AnnData, gene_sets: dict[str, list[str]], seed: int
) -> AnnData:
    """Return what the model learned: depth and gene programs at every site, with gene loadings, and gene sets.

    X (site, program) are scores from the section's mean, log depth first; `varm["loadings"]` what a unit of each adds
    to the genes. Gene sets of `evaluation.gene_sets` are columns of obs, by scanpy's score_genes.
    """
    from spamcaf.reporting.programs import program_map

    return program_map(full_model.model, super_resolved, gene_sets, seed)


def write_spatialdata(prediction: AnnData, section: AnnData, slide: Slide | None) -> SpatialData:
    """Return the prediction with its image, where there is one, and spots, where there are any, as SpatialData."""
    from spamcaf.reporting.exports import to_spatialdata

    return to_spatialdata(prediction, section, slide)


def _require_match(model: TrainedModel, expression: AnnData, key: FeatureKey) -> None:
    model.require_genes(expression.var_names.tolist(), names_hash(all_gene_ids(expression)))
    model.require_features(key)

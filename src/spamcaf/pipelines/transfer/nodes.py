"""Nodes of the transfer pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import PurePath

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology import tissue as histology
from spamcaf.histology.features import Features
from spamcaf.histology.slide import Slide
from spamcaf.histology.tissue import Tissue
from spamcaf.names import GENE_IDS, NO_IMAGE, SPATIAL
from spamcaf.parameters import (
    ComputeSettings,
    GridSettings,
    InferenceSettings,
    ReportSettings,
    TissueSettings,
    TransferSettings,
)
from spamcaf.pipelines.joins import as_prediction, last_blocks_of, mpp_of, sites_of
from spamcaf.pipelines.types import AnnData, Backbone, DataFrame, Figure, TrainedModel
from spamcaf.sections import sites
from spamcaf.sections.gene_names import find_genes
from spamcaf.sections.sites import SITE_ID, X_PX, Y_PX

logger = logging.getLogger(__name__)


def lay_sites(
    slide: Slide | None, settings: TransferSettings, tissue: TissueSettings
) -> tuple[AnnData, DataFrame, Tissue]:
    """Lay sites over the image; return the section without counts, named as its image, its sites, and the tissue."""
    if slide is None:
        raise InputError(
            f"image={NO_IMAGE} for a section of which nothing else is known.", "its image.", "Name it: image=<file>."
        )
    mpp = sites.resolve_mpp(settings.mpp, slide.mpp)
    mask = histology.find_tissue(slide, mpp, tissue)
    laid = sites.lay_sites(slide.shape, mpp, settings.pitch_um)
    kept = laid[mask.holds(laid[[X_PX, Y_PX]].to_numpy())].reset_index(drop=True)
    logger.info("%d sites on tissue, %g um apart, %.4f um per pixel", len(kept), settings.pitch_um, mpp)
    return sites.as_section(kept, PurePath(slide.name).stem, mpp, settings.pitch_um), kept, mask


def predict_unmeasured(
    transfer_model: TrainedModel,
    unmeasured_section: AnnData,
    unmeasured_sites: DataFrame,
    unmeasured_features: Features,
    unmeasured_tissue: Tissue,
    compute: ComputeSettings,
    inference: InferenceSettings,
    seed: int,
    load_backbone: Callable[[], Backbone],
) -> AnnData:
    """Predict every site from image features alone."""
    import pandas as pd

    from spamcaf.peers.models import predict

    transfer_model.require_features(unmeasured_features.key)
    ids = unmeasured_sites[SITE_ID].tolist()
    xy_px = np.asarray(unmeasured_section.obsm[SPATIAL], np.float64)
    unmeasured_features.require_sites(ids, xy_px)
    sites = sites_of(ids, xy_px * mpp_of(unmeasured_section), unmeasured_features)
    last_blocks = last_blocks_of(load_backbone, transfer_model.n_finetuned, unmeasured_features.key)
    predicted = predict(transfer_model.model, None, sites, compute, inference, seed, last_blocks)
    genes = pd.DataFrame({GENE_IDS: list(transfer_model.gene_ids)}, index=list(transfer_model.genes))
    where = (unmeasured_sites, sites.n_px_padded, unmeasured_section, unmeasured_tissue)
    return as_prediction(predicted, transfer_model, genes, *where, GridSettings(subdivide=1))


def plot_transferred(transferred: AnnData, settings: ReportSettings) -> Figure:
    """Draw the predicted maps of the requested genes, and of those that vary most."""
    from spamcaf.reporting.figures import plot_predicted_maps, warn_of_absent

    warn_of_absent(settings.genes, transferred.var)
    return plot_predicted_maps(transferred, find_genes(settings.genes, transferred.var)[0], settings.n_genes)

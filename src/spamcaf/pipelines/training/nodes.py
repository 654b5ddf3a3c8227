"""Nodes of the training pipeline."""

from __future__ import annotations

import logging

from spamcaf.histology.features import Features
from spamcaf.names import FACTS, GENE_IDS, Fact, Part
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.pipelines.joining import measured_spots, pitch_um_of
from spamcaf.pipelines.types import AnnData, DataFrame, Figure, TrainedModel
from spamcaf.provenance import certificate, configuration_hash, names_hash
from spamcaf.sections.split import BARCODE, FOLD, barcodes_of

logger = logging.getLogger(__name__)


def fit_spamcaf(
    expression: AnnData,
    spot_split: DataFrame,
    spot_features: Features,
    fit: FitSettings,
    network: NetworkSettings,
    compute: ComputeSettings,
    seed: int,
) -> tuple[TrainedModel, DataFrame]:
    """Fit SpaMCAF to the visible spots; return the model and its log, one row per fold and epoch."""
    import pandas as pd

    from spamcaf.learning import fit as learning
    from spamcaf.learning.trained import TrainedModel

    visible = barcodes_of(spot_split, Part.TRAIN)
    folds = spot_split.set_index(BARCODE).loc[visible, FOLD].to_numpy()
    measured = measured_spots(expression, spot_features, visible)
    fitted = learning.fit_spamcaf(
        measured, folds, pitch_um_of(expression), fit, network, compute, seed, log=logger.info
    )
    record = certificate(
        section=str(expression.uns[FACTS][Fact.NAME]),
        split=names_hash(visible),
        n_train=len(visible),
        backbone=spot_features.key.backbone,
        view=spot_features.key.view,
        slide=spot_features.key.slide,
        seed=seed,
        configuration=configuration_hash(fit, network, compute),
    )
    genes, gene_ids = expression.var_names.tolist(), expression.var[GENE_IDS].astype(str).tolist()
    return TrainedModel(fitted.model, tuple(genes), tuple(gene_ids), record), pd.DataFrame(fitted.log)


def plot_training(training_log: DataFrame) -> Figure:
    """Draw losses and validation PCC by epoch."""
    from spamcaf.reporting.curves import plot_training_curves

    return plot_training_curves(training_log)

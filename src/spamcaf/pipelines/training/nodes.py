"""Nodes of the training pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from spamcaf.errors import InputError
from spamcaf.histology.features import Features
from spamcaf.names import GENE_IDS, SECTION_METADATA, Model, Part, SectionField
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, ReleasedSettings
from spamcaf.pipelines.joins import (
    all_gene_ids,
    fold_others,
    last_blocks_of,
    measured_other_sections,
    measured_spots,
    pitch_um_of,
)
from spamcaf.pipelines.references import reference_counts
from spamcaf.pipelines.types import (
    AnnData,
    Backbone,
    Checkpoints,
    DataFrame,
    Figure,
    OtherSections,
    References,
    TrainedModel,
)
from spamcaf.provenance import configuration_hash, names_hash, provenance_record
from spamcaf.sections.split import BARCODE, FOLD, PART, fold_all

if TYPE_CHECKING:
    from spamcaf.model.data import TrainingSection
    from spamcaf.peers.released import FittedReleased

logger = logging.getLogger(__name__)


def fit_spamcaf(
    expression: AnnData,
    spot_split: DataFrame,
    spot_features: Features,
    other_sections: OtherSections,
    references: References,
    fit_checkpoints: Checkpoints,
    fit: FitSettings,
    network: NetworkSettings,
    released: ReleasedSettings,
    compute: ComputeSettings,
    seed: int,
    load_backbone: Callable[[], Backbone],
) -> tuple[TrainedModel, DataFrame, DataFrame]:
    """Fit the model that is scored, to the visible spots, and to all spots of other sections where there are any.

    Returns it, the training log with a row per fold and epoch, and the program log with a row per gene program.
    `fit.model` chooses the model, spamcaf or the replica of the released network. A fit that was killed goes on from
    its checkpoints; they are removed when it is done. `load_backbone` is called only where `fit.finetune` needs it.
    """
    import pandas as pd

    from spamcaf.model import fit as learning
    from spamcaf.model.fitted import PROGRAM_COLUMNS, SpamcafModel, program_rows
    from spamcaf.model.training import LOG_COLUMNS
    from spamcaf.peers.models import TrainedModel
    from spamcaf.peers.released import fit_released

    fit = _as_seen(fit, spot_features)
    spots = spot_split.loc[spot_split[PART] == Part.TRAIN, [BARCODE, FOLD]]
    barcodes, key = spots[BARCODE].tolist(), spot_features.key
    target_section, others = _training_sections(expression, spots, spot_features, other_sections)
    more_data = f", and {len(others)} other sections" if others else ""
    logger.info("fitting %s to %d spots%s", fit.model, len(barcodes), more_data)
    fitted: learning.Fitted | FittedReleased
    if fit.model == Model.RELEASED:
        fitted = fit_released(_only(target_section, others), released, compute, seed, fit_checkpoints)
    else:
        pitch_um, settings = pitch_um_of(expression), (fit, network, compute, seed, fit_checkpoints)
        more = reference_counts(references, expression, seed), last_blocks_of(load_backbone, fit.finetune, key)
        fitted = learning.fit_spamcaf(target_section, others, pitch_um, *settings, *more)
    fit_checkpoints.clear()
    record = provenance_record(
        model=fit.model,
        section=str(expression.uns[SECTION_METADATA][SectionField.NAME]),
        spots=names_hash(barcodes),
        n_train=len(barcodes),
        other_sections=list(other_sections.names),
        program_sources=getattr(fitted, "sources", {}),
        program_genes=names_hash(all_gene_ids(expression)),
        backbone=key.backbone,
        view=key.view,
        slide=key.slide,
        seed=seed,
        configuration=configuration_hash(fit, released if fit.model == Model.RELEASED else network, compute),
    )
    genes, gene_ids = expression.var_names, expression.var[GENE_IDS].astype(str)
    programs = program_rows(fitted.model) if isinstance(fitted.model, SpamcafModel) else []
    # a table without rows keeps its header: a file without one cannot be read
    training_log = pd.DataFrame(fitted.log, columns=None if fitted.log else LOG_COLUMNS)
    program_log = pd.DataFrame(programs, columns=PROGRAM_COLUMNS)
    return TrainedModel(fitted.model, tuple(genes), tuple(gene_ids), record), training_log, program_log


def _as_seen(fit: FitSettings, features: Features) -> FitSettings:
    """Return the settings of a fit, without networks where there is no image."""
    if not (features.key.is_blind and fit.use_network):
        return fit
    logger.info("no image: the Gaussian process predicts alone, over positions, without networks")
    return fit.model_copy(update={"use_network": False})


def _training_sections(
    expression: AnnData, spots: DataFrame, spot_features: Features, other_sections: OtherSections
) -> tuple[TrainingSection | None, list[TrainingSection]]:
    """Return the section's `spots` (barcode and fold), None without any, and the other sections."""
    from spamcaf.model.data import TrainingSection

    target_section = None
    if len(spots):
        measured = measured_spots(expression, spot_features, spots[BARCODE].tolist())
        target_section = TrainingSection(measured, spots[FOLD].to_numpy())
    elsewhere = measured_other_sections(other_sections, expression, spot_features.key)
    return target_section, list(map(TrainingSection, elsewhere, fold_others(spots, elsewhere)))


def fit_on_all_spots(
    expression: AnnData,
    spot_split: DataFrame,
    spot_features: Features,
    other_sections: OtherSections,
    references: References,
    full_fit_checkpoints: Checkpoints,
    fit: FitSettings,
    network: NetworkSettings,
    released: ReleasedSettings,
    compute: ComputeSettings,
    seed: int,
    load_backbone: Callable[[], Backbone],
) -> TrainedModel:
    """Fit the model that draws the map, to every measured spot: for the map nothing needs to be hidden.

    No score on hidden spots is ever taken from it.
    """
    spots = fold_all(spot_split).assign(**{PART: Part.TRAIN})
    where = (expression, spots, spot_features, other_sections, references, full_fit_checkpoints)
    return fit_spamcaf(*where, fit, network, released, compute, seed, load_backbone)[0]


def _only(target_section: TrainingSection | None, others: list[TrainingSection]) -> TrainingSection:
    if target_section is None or others:
        raise InputError(
            "fit.model=released with other sections, or without a visible spot.",
            "one section: the released network is fitted to a single one.",
            "Leave other_sections out, or fit spamcaf.",
        )
    return target_section


def plot_training(training_log: DataFrame, program_log: DataFrame) -> Figure:
    """Draw losses and validation PCC by epoch, and the network's share of each program."""
    from spamcaf.reporting.figures import plot_training_curves

    return plot_training_curves(training_log, program_log)

"""Nodes of the evaluation pipeline."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.features import Features
from spamcaf.names import PROVENANCE, SECTION_METADATA, SPATIAL, Model, Obs, Part, SectionField
from spamcaf.parameters import ReportSettings, SplitSettings
from spamcaf.pipelines.joins import grid_sites, measured_other_sections, measured_spots, mpp_of, pitch_um_of, sites_of
from spamcaf.pipelines.types import AnnData, DataFrame, Figure, OtherSections, SimulatedTissue
from spamcaf.reporting.prediction import DRAW, SD
from spamcaf.sections.panel import COUNTS, DEPTH
from spamcaf.sections.sites import SUB_INDEX, stack
from spamcaf.sections.split import barcodes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def fit_baselines(
    expression: AnnData, spot_split: DataFrame, spot_features: Features, other_sections: OtherSections, seed: int
) -> AnnData:
    """Predict the hidden spots with every baseline; one layer each.

    Baselines learn from the section itself; where all of it is hidden, those that need no neighbours learn from the
    other sections.
    """
    from anndata import AnnData

    from spamcaf.scoring.baselines import RECOVERY, TRANSFER, predict_all

    visible, hidden = barcodes_of(spot_split, Part.TRAIN), barcodes_of(spot_split, Part.HIDDEN)
    if visible:
        measured = measured_spots(expression, spot_features, visible)
    else:
        measured = stack(measured_other_sections(other_sections, expression, spot_features.key))
    xy_um = np.asarray(expression[hidden].obsm[SPATIAL]) * mpp_of(expression)
    sites = sites_of(hidden, xy_um, spot_features)
    names, pitch_um = RECOVERY if visible else TRANSFER, pitch_um_of(expression)
    layers = predict_all(measured, sites, pitch_um, seed, names, positions=bool(visible))
    return AnnData(
        None, expression[hidden].obs[[]], expression.var, layers=layers, shape=(len(hidden), expression.n_vars)
    )


def score_super_resolution(
    truth: SimulatedTissue | None,
    super_resolved: AnnData,
    expression: AnnData,
    grid: DataFrame,
    spot_features: Features,
    grid_features: Features,
    seed: int,
) -> dict[str, Any]:
    """Score the sites between the spots against the truth; an empty record where there are none, or no known truth.

    The baselines learn from the same measured spots as the model.
    """
    between = (grid[SUB_INDEX] > 0).to_numpy()
    if truth is None or not between.any():
        return {}
    from spamcaf.scoring import scores
    from spamcaf.scoring.baselines import SUPER_RESOLUTION, predict_all

    sites = grid_sites(grid[between], spot_features, grid_features, mpp_of(expression))
    measured = measured_spots(expression, spot_features, expression.obs_names.tolist())
    predictions = predict_all(measured, sites, pitch_um_of(expression), seed, SUPER_RESOLUTION)
    predictions |= _ours(super_resolved[between])
    genes = expression.var_names.tolist()
    known = truth.true_expression(sites.xy_um)[:, truth.genes.index.get_indexer(genes)]
    factor = len(grid) / expression.n_obs
    scored = scores.SuperResolution(factor, genes, sites.xy_um, known, predictions)
    return scores.score_super_resolution(scored, _model(super_resolved), _lattice(expression))


def score_predictions(
    recovered: AnnData,
    baseline_predictions: AnnData,
    expression: AnnData,
    spot_split: DataFrame,
    settings: SplitSettings,
    seed: int,
) -> tuple[DataFrame, dict[str, Any]]:
    """Score every predictor on the hidden spots."""
    from spamcaf.scoring import metrics
    from spamcaf.scoring.scores import HiddenSpots, Setting, build_scores

    visible, hidden = barcodes_of(spot_split, Part.TRAIN), barcodes_of(spot_split, Part.HIDDEN)
    _require_same_spots(hidden, recovered, baseline_predictions)
    truth = expression[hidden]
    hidden_spots = HiddenSpots(
        expression.var_names.tolist(),
        np.asarray(truth.obsm[SPATIAL]) * mpp_of(expression),
        np.asarray(truth.X),
        truth.layers[COUNTS].toarray(),
        truth.obs[DEPTH].to_numpy(),
    )
    predictions = {**_ours(recovered), **baseline_predictions.layers}
    name = str(expression.uns[SECTION_METADATA][SectionField.NAME])
    n_train, n_buffer = len(visible), len(barcodes_of(spot_split, Part.BUFFER))
    others = tuple(_record(recovered)["other_sections"])
    setting = Setting(name, _model(recovered), settings.protocol, n_train, n_buffer, others, _lattice(expression), seed)
    seen = np.asarray(expression[visible].X)
    scores, gene_scores = build_scores(setting, hidden_spots, predictions, recovered.layers.get(SD), seen)
    draws = [np.asarray(layer) for key, layer in recovered.layers.items() if key and key.startswith(DRAW)]
    if draws:
        n_neighbours = min(metrics.NEIGHBOURS[setting.lattice], len(hidden) - 1)
        truth_values, xy_um = hidden_spots.expression, hidden_spots.xy_um
        scores["draws"] = metrics.score_draws(truth_values, np.stack(draws), xy_um, n_neighbours)
    return gene_scores, scores


def join_scores(hidden_scores: dict[str, Any], super_resolution_scores: dict[str, Any]) -> dict[str, Any]:
    """Return the scores on hidden spots with those between the spots, where there are any; print the table."""
    from spamcaf.scoring.scores import format_table

    between = {"super_resolution": super_resolution_scores} if super_resolution_scores else {}
    scores = {**hidden_scores, **between}
    logger.info("scores on hidden spots\n%s", format_table(scores))
    return scores


def plot_maps(
    expression: AnnData, recovered: AnnData, super_resolved: AnnData, gene_scores: DataFrame, settings: ReportSettings
) -> Figure:
    """Draw the requested genes, and those predicted best, as measured, recovered and super-resolved maps."""
    from spamcaf.reporting.figures import choose_genes, plot_gene_maps

    measured = expression.copy()
    measured.uns[SPATIAL] = recovered.uns[SPATIAL]
    genes = choose_genes(gene_scores, _model(recovered), settings.genes, settings.n_genes)
    return plot_gene_maps(measured, recovered, super_resolved, genes, mpp_of(expression))


def write_report(
    scores: dict[str, Any],
    section_report: dict[str, Any],
    gene_scores: DataFrame,
    section_overlay: bytes,
    training_curves: bytes,
    maps: bytes,
    recovered: AnnData,
) -> str:
    """Return the HTML report of the run; its provenance is that of the model that was scored."""
    from spamcaf.reporting.report import render_report

    figures = {"overlay": section_overlay, "training_curves": training_curves, "maps": maps}
    return render_report(scores, section_report, figures, _record(recovered), gene_scores)


def _ours(prediction: AnnData) -> dict[str, NDArray[np.float32]]:
    """Return the prediction of the fitted model by its name, and of its Gaussian process alone where it has one."""
    ours = {_model(prediction): np.asarray(prediction.X)}
    if Model.PROGRAM_GP in prediction.layers:
        ours[str(Model.PROGRAM_GP)] = np.asarray(prediction.layers[Model.PROGRAM_GP])
    return ours


def _model(prediction: AnnData) -> str:
    return str(_record(prediction)["model"])


def _record(prediction: AnnData) -> dict[str, Any]:
    """Return the record of the fitted model that predicted."""
    record: dict[str, Any] = json.loads(prediction.uns[PROVENANCE])
    return record


def _require_same_spots(hidden: list[str], recovered: AnnData, baselines: AnnData) -> None:
    for what, found in (("recovered", recovered.obs[Obs.PARENT].tolist()), ("baselines", baselines.obs_names.tolist())):
        if found != hidden:
            raise InputError(
                f"predictions ({what}) for other spots than those hidden now.",
                "the same spots: the split has changed since.",
                "Run training, inference and evaluation again.",
            )


def _lattice(expression: AnnData) -> str:
    return str(expression.uns[SECTION_METADATA][SectionField.LATTICE])

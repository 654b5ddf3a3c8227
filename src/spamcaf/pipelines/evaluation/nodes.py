"""Nodes of the evaluation pipeline."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.features import Features
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.names import NO_IMAGE, PROVENANCE, SECTION_METADATA, SPATIAL, Model, Obs, Part, SectionField
from spamcaf.parameters import ComputeSettings, EvaluationSettings, ReportSettings, SplitSettings, TileSettings
from spamcaf.pipelines.joins import grid_sites, measured_other_sections, measured_spots, mpp_of, pitch_um_of, sites_of
from spamcaf.pipelines.types import AnnData, DataFrame, Figure, OpenSlide, OtherSections, SimulatedTissue
from spamcaf.reporting.prediction import DRAW, SD, named_layers
from spamcaf.sections.array_indices import index_of
from spamcaf.sections.gene_names import find_genes, named
from spamcaf.sections.panel import COUNTS, DEPTH
from spamcaf.sections.sites import SUB_INDEX, stack
from spamcaf.sections.split import barcodes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

WITHOUT_IMAGE = (
    "No image was used (image=none): everything is predicted from coordinates and measured expression alone. "
    "Small images that came with the spots are the ground of the maps, and nothing else."
)


def fit_baselines(
    expression: AnnData,
    spot_split: DataFrame,
    spot_features: Features,
    other_sections: OtherSections,
    open_slide: OpenSlide,
    tiles: TileSettings,
    evaluation: EvaluationSettings,
    compute: ComputeSettings,
    seed: int,
) -> AnnData:
    """Predict the hidden spots with every baseline and peer of `evaluation.models`; one layer each, X as measured.

    They learn from the section itself; where all of it is hidden, those that need no neighbours learn from the other
    sections. The slide is opened only where one of them needs the colours of tiles.
    """
    from anndata import AnnData

    from spamcaf.scoring.predictors import PREDICTORS, able, predict_all

    visible, hidden = barcodes_of(spot_split, Part.TRAIN), barcodes_of(spot_split, Part.HIDDEN)
    blind = spot_features.key.is_blind
    names, pitch_um = able(evaluation.models, new_section=not visible, blind=blind), pitch_um_of(expression)
    colours = _tile_colours(expression, open_slide, tiles) if any(PREDICTORS[n].needs_colours for n in names) else None
    if visible:
        measured = measured_spots(expression, spot_features, visible, colours)
    else:
        measured = stack(measured_other_sections(other_sections, expression, spot_features.key))
    xy_um = np.asarray(expression[hidden].obsm[SPATIAL]) * mpp_of(expression)
    sites = sites_of(hidden, xy_um, spot_features, colours)
    layers = predict_all(measured, sites, pitch_um, seed, names, positions=bool(visible), compute=compute)
    spots = expression[hidden]
    labels = spots.obs[[Obs.LABEL.value] if Obs.LABEL in spots.obs else []]
    places = {SPATIAL: np.asarray(spots.obsm[SPATIAL])}
    return AnnData(np.asarray(spots.X, np.float32), labels, expression.var, obsm=places, layers=layers)


def _tile_colours(expression: AnnData, open_slide: OpenSlide, tiles: TileSettings) -> DataFrame:
    """Return a row of `tile_colours` per spot."""
    import pandas as pd

    from spamcaf.histology.colours import tile_colours

    xy_px = np.asarray(expression.obsm[SPATIAL], np.float64)
    geometry = WindowGeometry.of(tiles, mpp_of(expression))
    slide = open_slide()
    if slide is None:  # such models are left out without an image
        raise ValueError("The colours of tiles of a section without an image.")
    return pd.DataFrame(tile_colours(slide, xy_px, geometry), index=expression.obs_names)


def score_super_resolution(
    truth: SimulatedTissue | None,
    super_resolved: AnnData,
    expression: AnnData,
    grid: DataFrame,
    spot_features: Features,
    grid_features: Features,
    evaluation: EvaluationSettings,
    compute: ComputeSettings,
    seed: int,
) -> dict[str, Any]:
    """Score the sites between the spots against the truth; an empty record where there are none, or no known truth.

    Baselines and peers learn from the same measured spots as the model. The nearest spot always stands beside them: it
    is the map that was measured.
    """
    between = (grid[SUB_INDEX] > 0).to_numpy()
    if truth is None or not between.any():
        return {}
    from spamcaf.scoring import scores
    from spamcaf.scoring.predictors import able, predict_all

    sites = grid_sites(grid[between], spot_features, grid_features, mpp_of(expression))
    measured = measured_spots(expression, spot_features, expression.obs_names.tolist())
    named = dict.fromkeys([*evaluation.models, str(Model.NEAREST_SPOT)])
    names = able(named, between_spots=True, blind=spot_features.key.is_blind)
    predictions = predict_all(measured, sites, pitch_um_of(expression), seed, names, compute=compute)
    predictions |= _ours(super_resolved[between])
    genes = expression.var_names.tolist()
    known = truth.true_expression(sites.xy_um)[:, truth.genes.index.get_indexer(genes)]
    factor = len(grid) / expression.n_obs
    index = grid.loc[between, [Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    lattice = "square" if between.all() else _lattice(expression)  # a raster of its own, which holds no spots
    scored = scores.SuperResolution(factor, genes, sites.xy_um, known, predictions, index)
    return scores.score_super_resolution(scored, _model(super_resolved), lattice, seed)


def score_domains(
    expression: AnnData, recovered: AnnData, super_resolved: AnnData, settings: EvaluationSettings, seed: int
) -> dict[str, Any]:
    """Compare clusters of measured, recovered and super-resolved expression with the labels of the spots.

    Recovered expression is predicted at hidden spots and measured at the others. Sites between the spots are clustered
    with the spots, and have no label of their own. Spots without a label, and the sites around them, are left out. The
    record is empty without labels, or where `settings.domains` is false.
    """
    if not settings.domains or Obs.LABEL not in expression.obs:
        return {}
    from spamcaf.scoring.domains import LabelledSites, score_domains

    labels = expression.obs[Obs.LABEL].astype(object).where(expression.obs[Obs.LABEL].notna(), None)
    measured = np.asarray(expression.X)
    mixed = measured.copy()
    mixed[expression.obs_names.get_indexer(recovered.obs[Obs.PARENT])] = np.asarray(recovered.X)
    is_known = labels.notna().to_numpy()
    parent = labels.reindex(super_resolved.obs[Obs.PARENT])
    between = (super_resolved.obs[Obs.SUB_INDEX] > 0).to_numpy()
    around = parent.notna().to_numpy()
    own = np.where(between, None, parent.to_numpy())[around]
    sites = {
        "measured": LabelledSites(measured[is_known], labels.to_numpy()[is_known]),
        "recovered": LabelledSites(mixed[is_known], labels.to_numpy()[is_known]),
        "super_resolved": LabelledSites(np.asarray(super_resolved.X)[around], own),
    }
    return score_domains(sites, settings.domain_seeds, seed)


def score_predictions(
    recovered: AnnData,
    baseline_predictions: AnnData,
    expression: AnnData,
    spot_split: DataFrame,
    settings: SplitSettings,
    seed: int,
    evaluation: EvaluationSettings,
) -> tuple[DataFrame, dict[str, Any]]:
    """Score every predictor on the hidden spots."""
    from spamcaf.scoring import metrics
    from spamcaf.scoring.gene_sets import score_gene_sets
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
        None if _lattice(expression) == "scattered" else index_of(truth),
    )
    predictions = {**_ours(recovered), **named_layers(baseline_predictions)}
    name = str(expression.uns[SECTION_METADATA][SectionField.NAME])
    n_train, n_buffer = len(visible), len(barcodes_of(spot_split, Part.BUFFER))
    others = tuple(map(str, _record(recovered)["other_sections"]))
    image = not is_blind(recovered)
    setting = Setting(
        name, _model(recovered), settings.protocol, n_train, n_buffer, others, _lattice(expression), seed, image
    )
    seen = np.asarray(expression[visible].X)
    scores, gene_scores = build_scores(setting, hidden_spots, predictions, recovered.layers.get(SD), seen)
    draws = [np.asarray(layer) for name, layer in named_layers(recovered).items() if name.startswith(DRAW)]
    if draws:
        n_neighbours = min(metrics.NEIGHBOURS[setting.lattice], len(hidden) - 1)
        truth_values, xy_um = hidden_spots.expression, hidden_spots.xy_um
        scores["draws"] = metrics.score_draws(truth_values, np.stack(draws), xy_um, n_neighbours)
    if gene_sets := _gene_sets(expression, visible, evaluation):
        scores["gene_sets"] = score_gene_sets(gene_scores, gene_sets)
    return gene_scores, scores


def _gene_sets(expression: AnnData, visible: list[str], settings: EvaluationSettings) -> dict[str, list[str]]:
    """Return the gene sets that visible spots give, then the user's, as far as the panel has their genes."""
    from spamcaf.scoring.gene_sets import choose_gene_sets

    spots = expression[visible]
    xy_um = np.asarray(spots.obsm[SPATIAL]) * mpp_of(expression)
    sets = choose_gene_sets(np.asarray(spots.X), xy_um, _lattice(expression), expression.var_names.tolist())
    for name, requested in settings.gene_sets.items():
        genes, absent = find_genes(requested, expression.var)
        if absent:
            figures = len(absent), len(absent) + len(genes)
            logger.warning("gene set %s: %d of %d genes are not in the panel: %s", name, *figures, named(absent))
        if genes:
            sets[name] = genes
    return sets


def join_scores(
    hidden_scores: dict[str, Any], super_resolution_scores: dict[str, Any], domain_scores: dict[str, Any]
) -> dict[str, Any]:
    """Return the scores on hidden spots with those between the spots and of domains, if any; print them."""
    from spamcaf.scoring.scores import format_table

    more = {"domains": domain_scores, "super_resolution": super_resolution_scores}
    scores = {**hidden_scores, **{name: part for name, part in more.items() if part}}
    logger.info("scores on hidden spots\n%s", format_table(scores))
    return scores


def _requested(settings: ReportSettings, truth: SimulatedTissue | None, genes: DataFrame) -> list[str]:
    """Return the genes that maps show first: the user's, by symbol or id, else known markers of a simulated section."""
    return find_genes(settings.genes or list(truth.shown_genes if truth else ()), genes)[0]


def _true_map(truth: SimulatedTissue | None, super_resolved: AnnData) -> AnnData | None:
    """Return the true expression at the sites of a map; None where it is not known."""
    if truth is None:
        return None
    from anndata import AnnData

    known = truth.true_expression(np.asarray(super_resolved.obsm[SPATIAL]) * truth.settings.mpp)
    values = known[:, truth.genes.index.get_indexer(super_resolved.var_names)]
    places = {SPATIAL: super_resolved.obsm[SPATIAL]}
    return AnnData(values, var=super_resolved.var[[]], obsm=places, uns={SPATIAL: super_resolved.uns[SPATIAL]})


def plot_maps(
    expression: AnnData,
    recovered: AnnData,
    super_resolved: AnnData,
    gene_scores: DataFrame,
    truth: SimulatedTissue | None,
    settings: ReportSettings,
) -> Figure:
    """Draw the requested genes, and those predicted best, as measured, recovered and super-resolved maps.

    Beside them stands the true expression where it is known, as of a simulated section.
    """
    from spamcaf.reporting.figures import choose_genes, plot_gene_maps, warn_of_absent

    warn_of_absent(settings.genes, super_resolved.var)
    measured = expression.copy()
    measured.uns[SPATIAL] = recovered.uns[SPATIAL]
    genes = choose_genes(
        gene_scores, _model(recovered), _requested(settings, truth, super_resolved.var), settings.n_genes
    )
    known = _true_map(truth, super_resolved)
    return plot_gene_maps(measured, recovered, super_resolved, genes, mpp_of(expression), known)


def write_geojson(
    super_resolved: AnnData,
    recovered: AnnData,
    gene_scores: DataFrame,
    section_report: dict[str, Any],
    truth: SimulatedTissue | None,
    settings: ReportSettings,
) -> dict[str, Any]:
    """Return the sites as GeoJSON for QuPath, with the genes of the maps, their deviations, and colours by the first.

    Of more than `settings.max_polygons` sites it has none, but a note that says what to open instead. Nothing lies
    beyond the image.
    """
    from spamcaf.reporting.exports import to_geojson
    from spamcaf.reporting.figures import choose_genes

    genes = list(
        choose_genes(gene_scores, _model(recovered), _requested(settings, truth, super_resolved.var), settings.n_genes)
    )
    size = section_report["image_px"]
    image_px = None if size is None else (size["width"], size["height"])
    return to_geojson(super_resolved, genes, settings.max_polygons, image_px)


def write_report(
    scores: dict[str, Any],
    section_report: dict[str, Any],
    gene_scores: DataFrame,
    section_overlay: bytes,
    training_curves: bytes,
    maps: bytes,
    expression: AnnData,
    recovered: AnnData,
    super_resolved: AnnData,
    truth: SimulatedTissue | None,
    settings: ReportSettings,
    parameters: dict[str, Any],
) -> str:
    """Return the HTML report of the run: the scores, and the maps of the genes best and worst predicted, and others.

    Its provenance is that of this run, and the record of the model that was scored.
    """
    from spamcaf.provenance import as_plain, run_record
    from spamcaf.reporting.exports import no_polygons
    from spamcaf.reporting.gene_table import tabulate_genes
    from spamcaf.reporting.interactive_maps import choose_map_genes, map_data
    from spamcaf.reporting.report import render_report
    from spamcaf.scoring.scores import best_baseline

    genes = tabulate_genes(gene_scores, _model(recovered), best_baseline(scores["models"]), expression)
    chosen = choose_map_genes(genes, _requested(settings, truth, super_resolved.var))
    known = _true_map(truth, super_resolved)
    drawn = map_data(expression, recovered, super_resolved, chosen, mpp_of(expression), known)
    provenance = {
        "This run": run_record(parameters["seed"]),
        "Parameters of this run": as_plain(parameters),
        "The model that was scored": as_plain(_record(recovered)),
    }
    figures = {"overlay": section_overlay, "training_curves": training_curves, "maps": maps}
    left_out = no_polygons(super_resolved.n_obs, settings.max_polygons)
    blind = WITHOUT_IMAGE if is_blind(recovered) else None
    remarks = [remark for remark in (blind, left_out) if remark is not None]
    return render_report(scores, section_report, figures, provenance, genes, drawn, remarks)


def _ours(prediction: AnnData) -> dict[str, NDArray[np.float32]]:
    """Return the prediction of the fitted model by its name, and of its Gaussian process alone where it has one."""
    ours = {_model(prediction): np.asarray(prediction.X)}
    if Model.PROGRAM_GP in prediction.layers:
        ours[str(Model.PROGRAM_GP)] = np.asarray(prediction.layers[Model.PROGRAM_GP])
    return ours


def _model(prediction: AnnData) -> str:
    return str(_record(prediction)["model"])


def is_blind(prediction: AnnData) -> bool:
    """Tell whether a prediction was made without an image (`image=none`)."""
    return bool(_record(prediction).get("slide") == NO_IMAGE)


def _record(prediction: AnnData) -> dict[str, Any]:
    """Return the record of the fitted model that predicted."""
    record: dict[str, Any] = prediction.uns[PROVENANCE]
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

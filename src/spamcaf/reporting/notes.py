"""What a reader must know before using the results: losses, smoothing, intervals, and what was hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, Metric, Model, display_name
from spamcaf.scoring.domains import describe_domains
from spamcaf.scoring.scores import best_model, describe_gene_sets, model_of

Record = Mapping[str, Any]


class Label(NamedTuple):
    """A short label and what it means."""

    label: str
    meaning: str


METRICS: dict[Metric, Label] = {
    Metric.PCC_MEAN: Label("PCC, mean", "Pearson correlation of a gene over the scored sites, mean over genes"),
    Metric.PCC_MEDIAN: Label("PCC, median", "the same, median over genes"),
    Metric.PCC_TOP50: Label("PCC, top 50", "the same, mean of the model's own 50 best genes"),
    Metric.SPEARMAN_MEAN: Label("Spearman", "rank correlation, mean over genes"),
    Metric.PCC_DEPTH_REMOVED: Label(
        "PCC, depth removed",
        "correlation of what measured sequencing depth does not explain of truth and prediction (partial correlation), "
        "mean over genes: it tells gene regulation from cellularity",
    ),
    Metric.SSIM: Label(
        "SSIM",
        "structural similarity of the map on the lattice, in windows of 7 x 7 scored sites, mean over genes",
    ),
    Metric.PCC_SPOTS: Label(
        "PCC over genes",
        "correlation over genes of a site's profile, mean over sites; high for every model with right gene means",
    ),
    Metric.GENE_STRUCTURE: Label(
        "Gene-gene structure", "correlation of the predicted with the measured gene-gene correlations"
    ),
    Metric.MSE: Label("MSE", "mean squared error of log1p CP10k, mean over genes; lower is better"),
    Metric.MAE: Label("MAE", "mean absolute error, mean over genes; lower is better"),
    Metric.RMSE: Label("RMSE", "root of each gene's mean squared error, mean over genes; lower is better"),
    Metric.SHARE_ABOVE: Label("PCC > 0.3", "share of genes with a PCC above 0.3"),
    Metric.UNDEFINED: Label("Undefined", "number of genes whose correlation is undefined; it counts as 0"),
    Metric.VARIANCE_RATIO: Label("Variance ratio", "predicted / measured variance, median over genes; ideally 1"),
    Metric.MORAN_RATIO: Label(
        "Moran ratio", "predicted / measured Moran's I; above 1 the prediction is smoother than the measurement"
    ),
}

PROTOCOLS = {
    "random": Label(
        "single spots, drawn uniformly at random",
        "These scores belong to one random choice of hidden spots; another choice gives slightly different ones. "
        "Hidden spots lie among visible ones, so nearly every hidden spot has a measured neighbour. The scores do not "
        "apply to tissue far from any measured spot, or to another section.",
    ),
    "lattice": Label(
        "all between every k-th row and column of the array, as sites of a map between the spots lie",
        "The visible spots are a lattice of k times the pitch (split.every), so these scores show on measured spots "
        "what prediction between the spots reaches, from spots k times as far apart as those the map is made of. "
        "Each choice of the visible sublattice (split.mask) has scores of its own.",
    ),
    "block": Label(
        "whole blocks of tissue, so that no hidden spot has a measured neighbour inside its window",
        "One block of tissue was hidden, and no spot near it was used for training; the other blocks (split.mask) have "
        "scores of their own, which may differ much. The scores show how well the model extrapolates, not how well it "
        "interpolates.",
    ),
    "section": Label(
        "the whole section: every model was trained on other sections",
        "The model was trained without any spot of this section. The scores do not apply to other donors or tissues.",
    ),
}
"""By protocol: which spots were hidden, and what the scores can and cannot show."""

_SMOOTH = 0.9
_COVERAGE_TOLERANCE = 0.03
_NOMINAL_COVERAGE = 0.9


def notes(scores: Record) -> list[str]:
    """Return the limits of the results in sentences: scores that the model loses, smoothing, intervals, protocol."""
    model, models, between = model_of(scores), scores["models"], scores.get("super_resolution")
    ours = models.get(model, {})
    texts = [
        "A predicted value is an estimate, not a measurement. Predicted maps suit the search for patterns; "
        "a finding about one gene at one site must be confirmed by a measurement.",
        *_losses(scores, model, "at hidden spots"),
        *(_losses(between, model, "between the spots") if between else []),
        *describe_gene_sets(scores),
        *describe_domains(scores),
    ]
    ratio, coverage = ours.get(Metric.VARIANCE_RATIO), scores.get("coverage_90")
    if ratio is not None and ratio < _SMOOTH:
        texts.append(
            f"Predicted values vary less than measured ones: the variance of the median gene is {ratio:.0%} of the "
            "measured. Part of what is missing is noise, part is real difference. Do not compare predicted with "
            "measured values site by site, and do not test for differences as if predictions were samples: "
            "draws from the posterior are made for that (inference.n_draws)."
        )
    if coverage is not None:
        off = coverage - _NOMINAL_COVERAGE
        fit = f"too {'wide' if off > 0 else 'narrow'}" if abs(off) > _COVERAGE_TOLERANCE else "about right"
        texts.append(f"The 90 % intervals contain {coverage:.1%} of the hidden values: they are {fit}.")
    if scores["protocol"] in PROTOCOLS:
        texts.append(PROTOCOLS[scores["protocol"]].meaning)
    if undefined := ours.get(Metric.UNDEFINED, 0):
        texts.append(
            f"For {undefined} of {scores['n_genes']} genes the correlation is undefined, since measured or predicted "
            "values are the same everywhere; they count as 0 in every mean."
        )
    return [
        *texts,
        "The top-50 score averages each model's own 50 best genes, chosen by the same scores: "
        "it flatters every model alike and is printed because the field reports it.",
    ]


def _losses(record: Record, model: str, where: str) -> list[str]:
    """Name the scores in which another model is better by more than the interval; a part of the model is no other."""
    models = record["models"]
    if model not in models or len(models) == 1:
        return []
    parts = {Model.PROGRAM_GP} if model == Model.SPAMCAF else set()
    rivals = {model: models[model], **{name: v for name, v in models.items() if name not in parts}}
    lost: dict[str, list[str]] = {}
    for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
        best = best_model(rivals, metric)  # the model comes first: a tie is not lost
        level = record.get("comparison", {}).get(metric, {}).get("level", [])
        if best is not None and best != model and model not in level:
            values = f"{models[best][metric]:.3f} against {models[model][metric]:.3f}"
            lost.setdefault(display_name(best), []).append(f"{METRICS[metric].label} {values}")
    ours = display_name(model)
    if not lost:
        return [f"No other model of the table beats {ours} {where} by more than the interval, in any score."]
    by_rival = " ".join(f"{rival}: {'; '.join(values)}." for rival, values in lost.items())
    return [f"Another model beats {ours} {where} in {sum(map(len, lost.values()))} of the scores. {by_rival}"]

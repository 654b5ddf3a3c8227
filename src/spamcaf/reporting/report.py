"""The HTML report of a run: one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, PEERS, Metric, Model
from spamcaf.scoring.predictors import PREDICTORS
from spamcaf.scoring.scores import Models, best_baseline, best_model, model_of, reach

if TYPE_CHECKING:
    import pandas as pd


Record = Mapping[str, Any]


class Label(NamedTuple):
    """A short label and what it means."""

    label: str
    meaning: str


MODELS: dict[str, str] = {
    Model.SPAMCAF: "SpaMCAF",
    Model.PROGRAM_GP: "Program Gaussian process",
    Model.RELEASED: "Released network (replica)",
    **{name: predictor.label for name, predictor in PREDICTORS.items()},
}

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
    Metric.MSE: Label("MSE", "mean squared error of log1p CP10k, mean over genes; lower is better"),
    Metric.MAE: Label(
        "MAE",
        "mean absolute error, mean over genes; lower is better. Where most values are 0, a constant (each gene's "
        "median) has nearly the least: it is no measure of skill",
    ),
    Metric.RMSE: Label("RMSE", "root of each gene's mean squared error, mean over genes; lower is better"),
    Metric.SHARE_ABOVE: Label("PCC > 0.3", "share of genes with a PCC above 0.3"),
    Metric.UNDEFINED: Label("Undefined", "number of genes whose correlation is undefined; it counts as 0"),
    Metric.VARIANCE_RATIO: Label("Variance ratio", "predicted / measured variance, median over genes; ideally 1"),
    Metric.MORAN_RATIO: Label(
        "Moran ratio", "predicted / measured Moran's I; above 1 the prediction is smoother than the measurement"
    ),
}

_PROTOCOLS = {
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

_FIGURES: dict[str, Label] = {
    "overlay": Label("Section check", "The spots drawn on the image, with the outline of the detected tissue."),
    "training_curves": Label(
        "Training",
        "Losses and validation correlation by epoch; lines are means over folds, bands their range. The bars show, for "
        "each gene program, the weight of the network in its combination with the Gaussian process.",
    ),
    "maps": Label(
        "Gene maps",
        "Per gene: measured spots, prediction at hidden spots, and the super-resolved map where there is one. "
        "The two predictions share one colour range, the measured spots have their own.",
    ),
}

_SMOOTH = 0.9
_COVERAGE_TOLERANCE = 0.03
_NOMINAL_COVERAGE = 0.9
_N_BEST = 12
_N_WORST = 5


def notes(scores: Record) -> list[str]:
    """Return the limits of the results in sentences: scores that the model loses, smoothing, intervals, protocol."""
    model, models, between = model_of(scores), scores["models"], scores.get("super_resolution")
    ours = models.get(model, {})
    texts = [
        "A predicted value is an estimate, not a measurement. Predicted maps suit the search for patterns; "
        "a finding about one gene at one site must be confirmed by a measurement.",
        *_losses(models, model, "at hidden spots"),
        *(_losses(between["models"], model, "between the spots") if between else []),
    ]
    texts += reach(scores)
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
    if scores["protocol"] in _PROTOCOLS:
        texts.append(_PROTOCOLS[scores["protocol"]].meaning)
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


def _losses(models: Models, model: str, where: str) -> list[str]:
    if model not in models or len(models) == 1:
        return []
    lost: dict[str, list[str]] = {}
    for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
        best = best_model({model: models[model], **models}, metric)  # the model comes first: a tie is not lost
        if best is not None and best != model:
            rival = MODELS.get(best, best) + (", a part of spamcaf" if best == Model.PROGRAM_GP else "")
            values = f"{models[best][metric]:.3f} against {models[model][metric]:.3f}"
            lost.setdefault(rival, []).append(f"{METRICS[metric].label} {values}")
    if not lost:
        return [f"No other model of the table beats {model} {where}, in any score where higher or lower is better."]
    by_rival = " ".join(f"{rival}: {'; '.join(values)}." for rival, values in lost.items())
    return [f"Another model beats {model} {where} in {sum(map(len, lost.values()))} of the scores. {by_rival}"]


def render_report(
    scores: Record, section_report: Record, figures: Mapping[str, bytes], provenance: Record, gene_scores: pd.DataFrame
) -> str:
    """Render the report of one run; everything is escaped, figures are embedded, nothing is fetched.

    Parameters
    ----------
    scores : the record of `scores.json`; InputError where it does not state its model
    section_report, provenance : shown as tables, nested keys joined by dots
    figures : PNG by name: overlay, training_curves and maps, each optional; others are added at the end
    gene_scores : a row per model and gene
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("spamcaf.reporting", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    model, between, protocol = model_of(scores), scores.get("super_resolution"), scores["protocol"]
    return environment.get_template("report.html.jinja").render(
        scores=scores,
        hidden_rule=_PROTOCOLS[protocol].label if protocol in _PROTOCOLS else protocol,
        key_numbers=_key_numbers(scores, model),
        table=_table(scores["models"], model),
        between=between and {**between, "table": _table(between["models"], model)},
        compared=_compared(scores["models"]),
        metrics=[METRICS[metric] for metric in Metric],
        section_rows=_flatten(section_report),
        provenance_rows=_flatten(provenance),
        figures={name: _figure(name, figure) for name, figure in figures.items()},
        placed=list(_FIGURES),
        ours=MODELS.get(model, model),
        genes=_gene_rows(gene_scores, model),
        notes=notes(scores),
    )


def _key_numbers(scores: Record, model: str) -> list[tuple[str, str, str]]:
    """Return (label, number, remark) of the few numbers worth reading first."""
    models, ceiling = scores["models"], scores["noise_ceiling"]
    tiles = []
    if model in models:
        share = ceiling.get("share_reached", {}).get(model)
        remark = "mean over genes" if share is None else f"{share:.0%} of the noise ceiling"
        tiles.append((f"{MODELS.get(model, model)}, mean PCC", _text(models[model][Metric.PCC_MEAN]), remark))
    if (best := best_baseline(models)) is not None:
        kind = "peer" if best in PEERS else "baseline"
        tiles.append((f"Best {kind}, mean PCC", _text(models[best][Metric.PCC_MEAN]), MODELS.get(best, best)))
    tiles.append(("Noise ceiling", _text(ceiling[Metric.PCC_MEAN]), "highest mean PCC that the noise of counts allows"))
    hidden = f"of {scores['n_train'] + scores['n_hidden'] + scores['n_buffer']} spots, {scores['n_genes']} genes"
    return [*tiles, ("Hidden spots", str(scores["n_hidden"]), hidden)]


def _table(models: Models, model: str) -> list[dict[str, Any]]:
    """Return one row per model, best mean PCC first; a cell is (text, is best)."""
    best = {metric: models.get(best_model(models, metric) or "", {}).get(metric) for metric in Metric}
    top = best[Metric.PCC_MEAN] or 0.0
    return [
        {
            "label": MODELS.get(name, name),
            "is_ours": name == model,
            "bar_percent": round(100 * max(values[Metric.PCC_MEAN], 0.0) / top) if top > 0 else 0,
            "cells": [
                (_text(value := values.get(metric)), value is not None and value == best[metric]) for metric in Metric
            ],
        }
        for name, values in sorted(models.items(), key=lambda item: -item[1][Metric.PCC_MEAN])
    ]


def _compared(models: Models) -> list[tuple[str, str]]:
    """Return label, method, input and training of each baseline and peer of the table."""
    known = ((name, predictor) for name, predictor in PREDICTORS.items() if name in models)
    return [(p.label, f"{p.description}. Sees: {p.sees}. Training: {p.training}.") for _, p in known]


def _gene_rows(gene_scores: pd.DataFrame, model: str) -> dict[str, list[list[str]]]:
    """Return the genes that the model predicts best and worst: gene, PCC, Spearman, RMSE, the best baseline's PCC."""
    ours = gene_scores[gene_scores["model"] == model].sort_values("pearson", ascending=False, kind="stable")
    others = gene_scores[gene_scores["model"].isin(list(PREDICTORS))].groupby("gene")["pearson"].max()
    rows = [
        [str(row.gene), *map(_text, (row.pearson, row.spearman, row.rmse, others.get(row.gene)))]
        for row in ours.itertuples()
    ]
    n_worst = min(_N_WORST, max(len(rows) - _N_BEST, 0))
    return {"best": rows[:_N_BEST], "worst": rows[len(rows) - n_worst :]}


def _flatten(record: Record, prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{name} · ")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(_text(item, ".6g") for item in value) or "none"))
        else:
            rows.append((name, _text(value, ".6g")))
    return rows


def _text(value: object, form: str = ".3f") -> str:
    if value is None:
        return "n/a"
    return format(value, form) if isinstance(value, float) else str(value)


def _figure(name: str, png: bytes) -> dict[str, str]:
    title, caption = _FIGURES.get(name, (name.replace("_", " ").capitalize(), ""))
    data = base64.b64encode(png).decode("ascii")
    return {"png": data, "title": title, "caption": caption, "alt": f"{title}. {caption or 'A figure of this run.'}"}

"""The HTML report of a run: one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, OUR_MODELS, Metric, Model, model_of_run

if TYPE_CHECKING:
    import pandas as pd


class Wording(NamedTuple):
    """A short label and what it means."""

    label: str
    meaning: str


MODELS: dict[str, str] = {
    Model.SPAMCAF: "SpaMCAF",
    Model.PROGRAM_GP: "Program Gaussian process",
    Model.RELEASED: "Released network (replica)",
    Model.GENE_MEAN: "Gene mean",
    Model.IDW: "Inverse distance, 8 neighbours",
    Model.KRIGING: "Kriging",
    Model.RIDGE: "Ridge on image features",
    Model.KRIGING_RIDGE_PROGRAMS: "Kriging + ridge on 5 programs",
    Model.NEAREST_SPOT: "Nearest spot",
}

METRICS: dict[Metric, Wording] = {
    Metric.PCC_MEAN: Wording("PCC, mean", "Pearson correlation of a gene over the places scored, mean over genes"),
    Metric.PCC_MEDIAN: Wording("PCC, median", "the same, median over genes"),
    Metric.PCC_TOP50: Wording("PCC, top 50", "the same, mean of the model's own 50 best genes"),
    Metric.SPEARMAN_MEAN: Wording("Spearman", "rank correlation, mean over genes"),
    Metric.MSE: Wording("MSE", "mean squared error of log1p CP10k, mean over genes; lower is better"),
    Metric.MAE: Wording("MAE", "mean absolute error, lower is better"),
    Metric.RMSE: Wording("RMSE", "root of each gene's mean squared error, mean over genes; lower is better"),
    Metric.SHARE_ABOVE: Wording("PCC > 0.3", "share of genes above 0.3"),
    Metric.UNDEFINED: Wording("Undefined", "genes without a defined correlation, counted as 0"),
    Metric.VARIANCE_RATIO: Wording("Variance ratio", "predicted / measured variance, median over genes; 1 is right"),
    Metric.MORAN_RATIO: Wording(
        "Moran ratio", "predicted / measured spatial autocorrelation; above 1 smoother than the measurement"
    ),
}

PROTOCOLS: dict[str, str] = {
    "random": "single spots, drawn uniformly at random",
    "block": "whole blocks of tissue, so that no hidden spot has a measured neighbour inside its window",
    "section": "the whole section: everything was learned on other sections",
}

FIGURES: dict[str, Wording] = {
    "overlay": Wording("Section check", "The spots drawn on the picture, with the edge of the tissue that was found."),
    "training_curves": Wording(
        "Training",
        "Losses and validation correlation by epoch; lines are means over folds, bands their range. "
        "Beside them, for each gene program, the network's share in the mix with the Gaussian process.",
    ),
    "maps": Wording(
        "Gene maps",
        "Per gene: measured spots, prediction at hidden spots, and the super-resolved map where there is one. "
        "The two predictions share one colour range, the measured spots have their own.",
    ),
}


_SMOOTH = 0.9
_COVERAGE_TOLERANCE = 0.03
_NOMINAL_COVERAGE = 0.9
PROTOCOL_NOTES = {
    "random": "These are the figures of one choice of hidden spots; another choice gives slightly different ones. "
    "Hidden spots lie among visible ones, so a neighbour was nearly always measured. The figures say nothing "
    "about tissue far from any measured spot, or about another section.",
    "block": "One block of tissue was hidden, without a measured neighbour in sight; the other blocks (split.mask) "
    "give figures of their own, which may differ much. They say how well the model extrapolates, not how well it "
    "interpolates.",
    "section": "Nothing was measured on this section as far as the model knows. The figures say nothing about other "
    "donors or tissues.",
}
"""What the figures of each protocol can and cannot show."""


def honest_notes(scores: Mapping[str, Any]) -> list[str]:
    """Return plain sentences: what the prediction is not, where the model loses, what the protocol cannot show."""
    notes = [
        "A predicted value is an estimate, not a measurement. It suits the search for patterns; "
        "a finding about one gene at one place needs a measurement of its own."
    ]
    notes += _losses(scores["models"], "at hidden spots")
    if scores.get("super_resolution"):
        notes += _losses(scores["super_resolution"]["models"], "between the spots")
    notes += _smoothing(scores["models"]) + _coverage(scores.get("coverage_90")) + _protocol(scores)
    notes.append(
        "The top-50 figure averages each model's own 50 best genes, picked by the same scores: "
        "it flatters every model alike and is printed because the field reports it."
    )
    return notes


def _losses(models: Mapping[str, Mapping[str, Any]], where: str) -> list[str]:
    model = model_of_run(models)
    ours = models.get(model)
    rivals = {name: values for name, values in models.items() if name != model}
    if ours is None or not rivals:
        return []
    lost = []
    for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
        sign = 1 if metric in HIGHER_IS_BETTER else -1
        best = max(rivals, key=lambda name: sign * rivals[name][metric])
        if sign * rivals[best][metric] > sign * ours[metric]:
            figures = f"{rivals[best][metric]:.3f} against {ours[metric]:.3f}"
            part = "a part of spamcaf, " if best in OUR_MODELS and best == Model.PROGRAM_GP else ""
            lost.append(f"{METRICS[metric].label} ({MODELS.get(best, best)}, {part}{figures})")
    if not lost:
        return [f"No other model of the table beats {model} {where}, in any score that has a better and a worse."]
    return [f"{model} loses {where} in {len(lost)} of the scores: {'; '.join(lost)}."]


def _smoothing(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    ratio = models.get(model_of_run(models), {}).get(Metric.VARIANCE_RATIO)
    if ratio is None or ratio >= _SMOOTH:
        return []
    return [
        f"Predicted values vary less than measured ones: the variance of the median gene is {ratio:.0%} of the "
        "measured. Part of what is missing is noise, part is real difference. Do not compare predicted and measured "
        "values place by place, nor test for differences as if predictions were samples."
    ]


def _coverage(coverage: float | None) -> list[str]:
    if coverage is None:
        return []
    off = coverage - _NOMINAL_COVERAGE
    text = f"The 90 % intervals hold {coverage:.1%} of the hidden values"
    if abs(off) <= _COVERAGE_TOLERANCE:
        return [f"{text}, about as many as they promise."]
    return [f"{text}: they are too {'wide' if off > 0 else 'narrow'}."]


def _protocol(scores: Mapping[str, Any]) -> list[str]:
    models = scores["models"]
    undefined = models.get(model_of_run(models), {}).get(Metric.UNDEFINED, 0)
    notes = [PROTOCOL_NOTES[scores["protocol"]]] if scores["protocol"] in PROTOCOL_NOTES else []
    if undefined:
        notes.append(
            f"For {undefined} of {scores['n_genes']} genes the correlation is undefined, since measured or predicted "
            "values are the same everywhere; they count as 0 in every mean."
        )
    return notes


_TEMPLATE = "report.html.jinja"
_N_BEST = 12
_N_WORST = 5


def render_report(
    scores: Mapping[str, Any],
    section_report: Mapping[str, Any],
    figures: Mapping[str, bytes],
    provenance: Mapping[str, Any],
    gene_scores: pd.DataFrame,
) -> str:
    """Return a self-contained HTML page on one run.

    `scores` is the record of `scores.json`; `figures` are PNG pictures and may hold overlay, training_curves and maps,
    others are added at the end; `section_report` and `provenance` are shown as tables, nested keys joined by dots;
    `gene_scores` has one row per model and gene. Everything is escaped, pictures are embedded, nothing is fetched.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("spamcaf.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    between = scores.get("super_resolution")
    return environment.get_template(_TEMPLATE).render(
        scores=scores,
        hidden_rule=PROTOCOLS.get(scores["protocol"], scores["protocol"]),
        key_figures=_key_figures(scores),
        table=_table(scores["models"]),
        between=between and {**between, "table": _table(between["models"])},
        metrics=[METRICS[metric] for metric in Metric],
        section_rows=_flatten(section_report),
        provenance_rows=_flatten(provenance),
        pictures={name: _picture(name, figure) for name, figure in figures.items()},
        placed=list(FIGURES),
        ours=MODELS[model_of_run(scores["models"])],
        genes=_gene_rows(gene_scores),
        notes=honest_notes(scores),
    )


def _key_figures(scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (label, figure, remark) of the few numbers worth reading first."""
    models, ceiling = scores["models"], scores["noise_ceiling"]
    baselines = {name: values[Metric.PCC_MEAN] for name, values in models.items() if name not in OUR_MODELS}
    tiles = []
    ours = model_of_run(models)
    if ours in models:
        share = ceiling.get("share_reached", {}).get(ours)
        remark = "mean over genes" if share is None else f"{share:.0%} of the noise ceiling"
        tiles.append((f"{MODELS[ours]}, mean PCC", f"{models[ours][Metric.PCC_MEAN]:.3f}", remark))
    if baselines:
        best = max(baselines, key=baselines.__getitem__)
        tiles.append(("Best baseline, mean PCC", f"{baselines[best]:.3f}", MODELS.get(best, best)))
    tiles.append(("Noise ceiling", f"{ceiling['pcc_mean']:.3f}", "best mean PCC that counts this noisy allow"))
    hidden = f"of {scores['n_train'] + scores['n_hidden'] + scores['n_buffer']} spots, {scores['n_genes']} genes"
    return [*tiles, ("Hidden spots", str(scores["n_hidden"]), hidden)]


def _table(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per model, best mean PCC first; a cell is (text, is best)."""
    best = {metric: _best(metric, models) for metric in Metric}
    top = max((values[Metric.PCC_MEAN] for values in models.values()), default=0.0)
    return [
        {
            "label": MODELS.get(name, name),
            "is_ours": name == model_of_run(models),
            "bar_percent": round(100 * max(values[Metric.PCC_MEAN], 0.0) / top) if top > 0 else 0,
            "cells": [
                (_text(values.get(metric)), best[metric] is not None and values.get(metric) == best[metric])
                for metric in Metric
            ],
        }
        for name, values in sorted(models.items(), key=lambda item: -item[1][Metric.PCC_MEAN])
    ]


def _best(metric: Metric, models: Mapping[str, Mapping[str, Any]]) -> float | None:
    known = [values[metric] for values in models.values() if values.get(metric) is not None]
    if metric in HIGHER_IS_BETTER and known:
        return float(max(known))
    return float(min(known)) if metric in LOWER_IS_BETTER and known else None


def _gene_rows(gene_scores: pd.DataFrame) -> dict[str, list[list[str]]]:
    """Return the genes that the model predicts best and worst: gene, PCC, Spearman, RMSE, the best baseline's PCC."""
    model = model_of_run(gene_scores["model"])
    ours = gene_scores[gene_scores["model"] == model].sort_values("pearson", ascending=False, kind="stable")
    others = gene_scores[~gene_scores["model"].isin(OUR_MODELS)].groupby("gene")["pearson"].max()
    rows = [
        [str(row.gene), _text(row.pearson), _text(row.spearman), _text(row.rmse), _text(others.get(row.gene))]
        for row in ours.itertuples()
    ]
    n_worst = min(_N_WORST, max(len(rows) - _N_BEST, 0))
    return {"best": rows[:_N_BEST], "worst": rows[len(rows) - n_worst :]}


def _flatten(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{name} · ")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(_fact(item) for item in value) or "none"))
        else:
            rows.append((name, _fact(value)))
    return rows


def _text(value: object) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _fact(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else _text(value)


def _picture(name: str, png: bytes) -> dict[str, str]:
    label, meaning = FIGURES.get(name, (name.replace("_", " ").capitalize(), ""))
    return {
        "png": base64.b64encode(png).decode("ascii"),
        "title": label,
        "caption": meaning,
        "alt": f"{label}. {meaning or 'A figure of this run.'}",
    }

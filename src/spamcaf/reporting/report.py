"""The HTML report of a run: one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, OUR_MODELS, Metric, model_of_run
from spamcaf.reporting.notes import honest_notes
from spamcaf.reporting.words import FIGURES, METRICS, MODELS, PROTOCOLS

if TYPE_CHECKING:
    import pandas as pd

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

"""The HTML reports of a run and of several: one file each that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from spamcaf.names import PEERS, Metric, Model, display_name
from spamcaf.reporting import charts
from spamcaf.reporting.gene_table import COLUMNS, count_outcomes
from spamcaf.reporting.notes import METRICS, PROTOCOLS, Label, Record, notes
from spamcaf.scoring.predictors import PREDICTORS
from spamcaf.scoring.scores import Models, best_baseline, best_beyond_interval, best_model, by_rank, model_of, reach

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

_LEARNS_FROM: dict[str, str] = {
    Model.SPAMCAF: "image features of a site and its surroundings, and the positions, expression and depth of visible "
    "spots: a Gaussian process on gene programs, combined with the network where one was fitted",
    Model.PROGRAM_GP: "the same, without the network; a part of SpaMCAF",
    Model.RELEASED: "image features of a site and its surroundings",
    **{name: f"{p.description}. Sees: {p.sees}. Training: {p.training}." for name, p in PREDICTORS.items()},
}

_FIGURES: dict[str, Label] = {
    "overlay": Label("Section check", "The spots drawn on the image, with the outline of the detected tissue."),
    "training_curves": Label(
        "Training",
        "Losses and validation correlation by epoch, where a network is trained; lines are means over folds, bands "
        "their range. Bars show, for each gene program, the weight of the network in its combination with the Gaussian "
        "process, and dashes the fraction of its variance that is signal.",
    ),
    "maps": Label(
        "Gene maps",
        "Per gene: measured spots, prediction at hidden spots, and the super-resolved map where there is one. "
        "The two predictions share one colour range, the measured spots have their own.",
    ),
}

_N_BEST, _N_WORST = 12, 5  # rows of the gene table without JavaScript
_STATIC_MAPS_PX = 1200
_SCRIPT = "gene_explorer.js"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("spamcaf.reporting", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _text, "name": display_name, "gap": _gap}
    script = loader.get_source(environment, _SCRIPT)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {"metrics": METRICS, "script": script, "script_hash": digest}
    return environment


def render_report(
    scores: Record,
    section_report: Record,
    figures: Mapping[str, bytes],
    provenance: Mapping[str, Record],
    genes: pd.DataFrame,
    maps: Record | None = None,
    remarks: Sequence[str] = (),
) -> str:
    """Render the report of one run; everything is escaped, figures are embedded, nothing is fetched.

    Parameters
    ----------
    scores : the record of `scores.json`; InputError where it does not state its model
    section_report : shown as a table, nested keys joined by dots
    figures : PNG by name: overlay, training_curves and maps, each optional; others are added at the end
    provenance : records by title, shown as tables
    genes : as `tabulate_genes` returns it
    maps : as `map_data` returns it; None for a report without interactive maps
    remarks : sentences on the results that follow the notes on the scores
    """
    model, between, protocol = model_of(scores), scores.get("super_resolution"), scores["protocol"]
    baseline = best_baseline(scores["models"])
    names = {"ours": display_name(model), "baseline": display_name(baseline or "")}
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            scores=scores,
            hidden_rule=PROTOCOLS[protocol].label if protocol in PROTOCOLS else protocol,
            key_numbers=_key_numbers(scores, model),
            reach_rows=_reach_rows(scores, model),
            reach=reach(scores),
            table=_table(scores, model),
            between=between and {**between, "table": _table(between, model)},
            learns_from=_learns_from(scores, between),
            names=names,
            columns=COLUMNS,
            n_genes=len(genes),
            outcomes=charts.OUTCOMES,
            counts=count_outcomes(genes),
            gene_rows=_static_rows(genes),
            charts=_charts(genes, scores, names),
            data={"columns": list(COLUMNS), "rows": _rows(genes), "outcomes": charts.OUTCOMES, "maps": maps},
            section_rows=_flatten(section_report),
            provenance={title: _flatten(record) for title, record in provenance.items()},
            figures={name: _figure(name, figure) for name, figure in figures.items()},
            placed=list(_FIGURES),
            notes=[*notes(scores), *remarks],
        )
    )


def render_cohort_report(
    sections: Sequence[tuple[str, Record]],
    links: Mapping[str, str] | None = None,
    tables: Mapping[str, list[list[str]]] | None = None,
    states: list[list[str]] | None = None,
) -> str:
    """Render the report of several runs: verdict, mean PCC of each model by run with the mean over runs, and wins.

    Parameters
    ----------
    sections : list of (name, record of `scores.json`)
        A name for each run, such as its section or section and mask. Models that a run lacks have an empty cell.
    links : dict of str, optional
        Addresses of the runs' reports by name, relative to the page.
    tables : dict of list, optional
        Further tables, which come first: rows of text by name, a header first.
    states : list of list, optional
        How each run ended, also those without scores: rows of text, a header first.
    """
    if not sections:
        return _environment().get_template("cohort.html.jinja").render(runs=[], tables={}, states=states or [])
    means = _mean_pcc([scores["models"] for _, scores in sections])
    model = model_of(sections[0][1])
    baseline = best_baseline(means)
    runs = [
        {
            "name": name,
            "link": (links or {}).get(name),
            "scores": scores,
            "table": _table(scores, model_of(scores)),
            "outcome": _outcome(scores),
        }
        for name, scores in sections
    ]
    top = max((values[Metric.PCC_MEAN] for values in means.values()), default=0.0)
    rows = [
        {
            "label": display_name(name),
            "is_ours": name == model,
            "mean": means[name][Metric.PCC_MEAN],
            "bar_percent": _percent(means[name][Metric.PCC_MEAN], top),
            "cells": [_cell(scores, name, Metric.PCC_MEAN) for _, scores in sections],
        }
        for name in by_rank(means)
    ]
    page = _environment().get_template("cohort.html.jinja")
    wins = {word: sum(run["outcome"] == word for run in runs) for word in charts.OUTCOMES}
    return page.render(
        runs=runs,
        tables=tables or {},
        states=states or [],
        rows=rows,
        wins=wins,
        ours=display_name(model),
        baseline=baseline and display_name(baseline),
        ours_mean=means.get(model, {}).get(Metric.PCC_MEAN),  # runs may have been fitted with different models
        baseline_mean=baseline and means[baseline][Metric.PCC_MEAN],
    )


def preview_of(page: str) -> str:
    """Return the top of a report as a fragment without scripts, styles in place, for viewers that allow no more."""
    found = re.search(r'<template id="preview">(.*?)</template>', page, re.DOTALL)
    picture = re.search(r"<noscript>\s*(<img[^>]*>)", page)
    if not found:
        return page
    # without white space between elements, which Kedro-Viz takes for line breaks
    return re.sub(r">\s+<", "><", found[1].strip()) + (picture[1] if picture else "")


def _mean_pcc(models: Sequence[Models]) -> dict[str, dict[str, float]]:
    """Return the mean PCC over runs of each model that all of them have."""
    shared = [name for name in models[0] if all(name in record for record in models)]
    return {name: {Metric.PCC_MEAN: sum(r[name][Metric.PCC_MEAN] for r in models) / len(models)} for name in shared}


def _outcome(scores: Record) -> str:
    """Return win, level or loss of the run's model against the run's best baseline, by the interval of the difference.

    A record of an earlier version has no interval: there any difference counts.
    """
    model, baseline = model_of(scores), best_baseline(scores["models"])
    if baseline is None or model not in scores["models"]:
        return "level"
    pcc = {name: scores["models"][name][Metric.PCC_MEAN] for name in (model, baseline)}
    low, high = scores.get("difference") or [pcc[model] - pcc[baseline]] * 2
    return "win" if low > 0 else "loss" if high < 0 else "level"


def _key_numbers(scores: Record, model: str) -> list[tuple[str, str, str]]:
    """Return (label, number, remark) of the few numbers worth reading first."""
    models, ceiling = scores["models"], scores["noise_ceiling"]
    tiles = []
    if model in models:
        interval = scores.get("intervals", {}).get(model, {}).get(Metric.PCC_MEAN)
        remark = f"95 % interval over genes {_gap(interval)}" if interval else "mean over genes"
        tiles.append((f"{display_name(model)}, mean PCC", _text(models[model][Metric.PCC_MEAN]), remark))
    if (best := best_baseline(models)) is not None:
        kind = "peer" if best in PEERS else "baseline"
        tiles.append((f"Best {kind}, mean PCC", _text(models[best][Metric.PCC_MEAN]), display_name(best)))
    tiles.append(("Noise ceiling", _text(ceiling[Metric.PCC_MEAN]), "highest mean PCC that the noise of counts allows"))
    hidden = f"of {scores['n_train'] + scores['n_hidden'] + scores['n_buffer']} spots, {scores['n_genes']} genes"
    return [*tiles, ("Hidden spots", str(scores["n_hidden"]), hidden)]


def _reach_rows(scores: Record, model: str) -> list[tuple[str, float, float, bool]]:
    """Return (label, mean PCC, percent of the noise ceiling, is ours) from what depth alone reaches to the ceiling."""
    models, top = scores["models"], scores["noise_ceiling"][Metric.PCC_MEAN]
    limit = scores.get("reachable_limit")
    shown = [name for name in (Model.DEPTH_ONLY, best_baseline(models), model) if name in models]
    found = {display_name(str(name)): models[str(name)][Metric.PCC_MEAN] for name in shown}
    found |= {"Reachable limit": limit[Metric.PCC_MEAN]} if limit else {}
    found |= {"Noise ceiling": top}
    return [(label, pcc, _percent(pcc, top), label == display_name(model)) for label, pcc in found.items()]


def _percent(value: float, top: float) -> float:
    return round(min(100 * max(value, 0.0) / top, 100.0), 1) if top > 0 else 0


def _table(record: Record, model: str) -> list[dict[str, Any]]:
    """Return one row per model, best mean PCC first, with a cell per metric."""
    models = record["models"]
    top = models[best_model(models) or model][Metric.PCC_MEAN]
    return [
        {
            "model": name,
            "label": display_name(name),
            "is_ours": name == model,
            "bar_percent": _percent(models[name][Metric.PCC_MEAN], top),
            "cells": [_cell(record, name, metric) for metric in Metric],
        }
        for name in by_rank(models)
    ]


def _cell(record: Record, name: str, metric: Metric) -> dict[str, Any]:
    """Return value and interval as text, and whether the model is the best or level with it."""
    compared = record.get("comparison", {}).get(metric, {"best": None, "level": []})
    return {
        "text": _text(record["models"].get(name, {}).get(metric)),
        "interval": _gap(record.get("intervals", {}).get(name, {}).get(metric)),
        "is_best": best_beyond_interval(record)[metric] == name,
        "is_level": bool(compared["level"]) and name in (compared["best"], *compared["level"]),
    }


def _learns_from(scores: Record, between: Record | None) -> list[tuple[str, str, str]]:
    """Return (model, what it learned from, what it learned from beside this section) in the order of the table."""
    models = dict.fromkeys([*by_rank(scores["models"]), *(between["models"] if between else ())])
    others = ", ".join(scores["other_sections"])
    rows = []
    for name in models:
        sees_others = bool(others) and (name in (scores["model"], Model.PROGRAM_GP) or not scores["n_train"])
        rows.append((display_name(name), _LEARNS_FROM.get(name, ""), others if sees_others else ""))
    return rows


def _charts(genes: pd.DataFrame, scores: Record, names: Mapping[str, str]) -> list[charts.Chart]:
    if not len(genes):
        return []
    series = {**names, "reachable_limit": "Reachable limit", "ceiling": "Noise ceiling"}
    found = [charts.pcc_histogram(genes, {key: label for key, label in series.items() if label})]
    if genes["baseline"].notna().any():
        label = f"PCC, {names['baseline']}"
        found.append(
            charts.gene_scatter(genes, "baseline", label, "Against the best baseline", names["ours"], diagonal=True)
        )
    label, title = "mean expression, log1p CP10k", "By level of expression"
    if genes["expression"].notna().any():
        found.append(charts.gene_scatter(genes, "expression", label, title, names["ours"], diagonal=False))
    if scores.get("calibration"):
        found.append(charts.calibration_curve(scores["calibration"]))
    return found


def _rows(genes: pd.DataFrame) -> list[list[Any]]:
    """Return the table's rows as plain values of few digits, None for what is missing."""
    shown = genes[list(COLUMNS)].round(4).astype(object)
    return shown.where(shown.notna(), None).values.tolist()  # type: ignore[no-any-return]


def _static_rows(genes: pd.DataFrame) -> list[list[str]]:
    """Return the best and worst predicted genes as texts: what is shown without JavaScript."""
    rows = [[_text(value, ".3f") for value in row] for row in _rows(genes)]
    n_worst = min(_N_WORST, max(len(rows) - _N_BEST, 0))
    return rows[:_N_BEST] + rows[len(rows) - n_worst :]


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


def _gap(interval: Sequence[float] | None) -> str:
    """Return an interval as short text: without the 0 before the point, for tables are wide."""
    texts = [re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}") for value in interval or ()]
    return "–".join(texts)  # noqa: RUF001  an en dash, for a range


def _figure(name: str, png: bytes) -> dict[str, str]:
    title, caption = _FIGURES.get(name, (name.replace("_", " ").capitalize(), ""))
    kind, data = ("jpeg", _as_jpeg(png)) if name == "maps" else ("png", png)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return {
        "source": source,
        "title": title,
        "caption": caption,
        "alt": f"{title}. {caption or 'A figure of this run.'}",
    }


def _as_jpeg(png: bytes) -> bytes:
    """Return the static maps as a small JPEG: with JavaScript they are not shown, and must not fill the page."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        shrunk = image.convert("RGB")
    shrunk.thumbnail((_STATIC_MAPS_PX, 1 << 16))
    file = io.BytesIO()
    shrunk.save(file, "JPEG", quality=80)
    return file.getvalue()

"""All scores of a run, gathered in one plain record, `scores.json`, and printed as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, PEERS, Metric, Model
from spamcaf.scoring import limits, metrics
from spamcaf.scoring.predictors import PREDICTORS

Models = Mapping[str, Mapping[str, Any]]
"""Scores by model and `Metric`."""

_LEVEL = 0.005  # factors closer to 1 than this vanish in two decimals


def model_of(scores: Mapping[str, Any]) -> str:
    """Return the name of the run's model; raise InputError where the record has none."""
    if "model" not in scores:
        found = "a scores.json that does not state its model, as version 0.1 wrote it."
        raise InputError(found, "the key `model`.", "Run the pipeline evaluation again.")
    return str(scores["model"])


def best_model(models: Models, metric: Metric = Metric.PCC_MEAN) -> str | None:
    """Return the model with the best value of `metric`; None without values, or where none is better."""
    known = [name for name, values in models.items() if values.get(metric) is not None]
    if metric in HIGHER_IS_BETTER:
        return max(known, key=lambda name: models[name][metric], default=None)
    return min(known, key=lambda name: models[name][metric], default=None) if metric in LOWER_IS_BETTER else None


def best_baseline(models: Models) -> str | None:
    """Return the baseline or peer with the highest mean PCC, None where there is none."""
    return best_model({name: values for name, values in models.items() if name in PREDICTORS})


def verdict(models: Models, model: str, where: str) -> str:
    """Compare `model` with the best baseline by mean PCC, in one sentence; `where` names the sites scored."""
    best = best_baseline(models)
    if model not in models or best is None:
        return f"No verdict at {where}: {model} and at least one baseline must be scored, found {', '.join(models)}."
    ours, theirs = (float(models[name][Metric.PCC_MEAN]) for name in (model, best))
    sentence = _compare(model, ours, best, theirs, f"mean PCC {ours:.3f} against {theirs:.3f} at {where}")
    if model == Model.SPAMCAF and Model.PROGRAM_GP in models:
        alone = float(models[Model.PROGRAM_GP][Metric.PCC_MEAN])
        change = f"the network changes that by {ours - alone:+.3f}"
        sentence += f"; its program Gaussian process alone has {alone:.3f}, {change}"
    return f"{sentence}."


def _compare(model: str, ours: float, best: str, theirs: float, figures: str) -> str:
    rival = f"the best {'peer' if best in PEERS else 'baseline'}, {best}"
    if theirs <= 0:
        word = "beats" if ours > theirs else "does not beat"
        return f"{model} {word} {rival} ({figures}; no factor, for the baseline is not above 0)"
    factor = ours / theirs
    if abs(factor - 1) < _LEVEL:
        return f"{model} is level with {rival} ({figures})"
    if factor > 1:
        return f"{model} beats {rival}, by a factor of {factor:.2f} ({figures})"
    return f"{model} does NOT beat {rival}: it reaches {factor:.2f} of it ({figures})"


@dataclass(frozen=True)
class Setting:
    """What was scored: names of the section, the fitted model (`Model`), the split's protocol and the lattice.

    `n_train` spots were learned from, `n_buffer` are neither learned from nor scored (see `sections.split`), `others`
    are further sections learned from.
    """

    section: str
    model: str
    protocol: str
    n_train: int
    n_buffer: int
    others: tuple[str, ...]
    lattice: str
    seed: int


@dataclass(frozen=True)
class HiddenSpots:
    """The hidden spots: (spot, gene) expression as log1p CP10k, raw counts of the same genes, (spot,) depth."""

    genes: Sequence[str]
    xy_um: NDArray[np.float64]
    expression: NDArray[np.float32]
    counts: NDArray[np.number]
    depth: NDArray[np.number]


@dataclass(frozen=True)
class SuperResolution:
    """Sites between the spots whose expression is known: (site, gene) truth, and prediction by model."""

    factor: float
    genes: Sequence[str]
    xy_um: NDArray[np.float64]
    expression: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.float32]]


def build_scores(
    setting: Setting,
    hidden: HiddenSpots,
    predictions: Mapping[str, NDArray[np.float32]],
    sd: NDArray[np.float32] | None = None,
    visible: NDArray[np.float32] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score every model on the same hidden spots and genes.

    Parameters
    ----------
    setting : Setting
    hidden : HiddenSpots
    predictions : dict of (spot, gene)
        By model.
    sd : (spot, gene), optional
        Standard deviation of a measurement that the run's model predicts, where it predicts one.
    visible : (spot, gene), optional
        Expression of the section's visible spots, from which the reachable limit is learned.

    Returns
    -------
    scores : dict
        The record of `scores.json`, plain data.
    gene_scores : DataFrame
        A row per model and gene, with the gene's noise ceiling and reachable limit (NaN where there is none).
    """
    truth = hidden.expression
    by_gene, models = _score(hidden, predictions, setting.lattice, depth=hidden.depth)
    by_gene_ceiling = limits.noise_ceiling(hidden.counts, hidden.depth, hidden.genes, setting.seed)
    ceiling = limits.summarise_ceiling(by_gene_ceiling)
    reachable = None if visible is None else limits.reachable_limit(visible, truth, hidden.genes, setting.seed)
    scores: dict[str, Any] = {
        "section": setting.section,
        "model": setting.model,
        "protocol": setting.protocol,
        "n_train": setting.n_train,
        "n_hidden": len(truth),
        "n_buffer": setting.n_buffer,
        "other_sections": list(setting.others),
        "n_genes": len(hidden.genes),
        "models": models,
        "noise_ceiling": _with_shares(ceiling, models),
        "reachable_limit": None if reachable is None else _with_shares(limits.summarise_limit(reachable), models),
        "coverage_90": None if sd is None else metrics.interval_coverage(truth, predictions[setting.model], sd),
        "verdict": verdict(models, setting.model, "hidden spots"),
    }
    gene_scores = pd.concat(by_gene, names=["model", None]).reset_index("model").reset_index(drop=True)
    by_gene_limit = np.full(len(hidden.genes), np.nan) if reachable is None else reachable["limit"].to_numpy()
    return scores, gene_scores.assign(
        ceiling=np.tile(by_gene_ceiling["ceiling"], len(by_gene)), reachable_limit=np.tile(by_gene_limit, len(by_gene))
    )


def _with_shares(bound: Mapping[str, Any], models: Models) -> dict[str, Any]:
    """Return the bound of the mean PCC with the share of it that each model reaches, None for a bound of 0."""
    top = bound[Metric.PCC_MEAN]
    shares = {name: values[Metric.PCC_MEAN] / top if top > 0 else None for name, values in models.items()}
    return {**bound, "share_reached": shares}


def reach(scores: Mapping[str, Any]) -> list[str]:
    """Say in sentences what can be reached of the mean PCC, what sequencing depth explains, and what MAE is worth.

    `scores` is the record of `build_scores`; one of an earlier version may hold neither.
    """
    model, models, limit = model_of(scores), scores["models"], scores.get("reachable_limit")
    ours = models.get(model, {}).get(Metric.PCC_MEAN, 0.0)
    sentences = []
    if limit is not None:
        share = limit["share_reached"].get(model)
        reached = "" if share is None else f"; {model} reaches {share:.0%} of it"
        sentences.append(
            f"Reachable limit of the mean PCC {limit[Metric.PCC_MEAN]:.3f}: what the hidden spots' own other genes "
            f"predict{reached}."
        )
    if Model.DEPTH_ONLY in models and ours > 0:
        share = models[Model.DEPTH_ONLY][Metric.PCC_MEAN] / ours
        sentences.append(f"Sequencing depth alone, predicted likewise (depth_only), explains {share:.0%} of the score.")
    if best_model(models, Metric.MAE) == Model.GENE_MEDIAN:
        sentences.append(
            "The least MAE is that of gene_median, a constant: where most values are 0, MAE shows no skill."
        )
    return sentences


def score_super_resolution(sites: SuperResolution, model: str, lattice: str) -> dict[str, Any]:
    """Score every prediction between the spots, `model` being the fitted one: `super_resolution` of `scores.json`."""
    where = " between the spots"
    _, models = _score(sites, sites.predictions, lattice, where)
    words = verdict(models, model, f"sites{where}")
    return {"factor": sites.factor, "n_sites": len(sites.expression), "models": models, "verdict": words}


def _score(
    sites: HiddenSpots | SuperResolution,
    predictions: Mapping[str, NDArray[np.float32]],
    lattice: str,
    where: str = "",
    depth: NDArray[np.number] | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Any]]]:
    """Return the scores of each model by gene, and their summaries."""
    truth, n_neighbours = sites.expression, min(metrics.NEIGHBOURS[lattice], len(sites.expression) - 1)
    by_gene, models = {}, {}
    for name, values in predictions.items():
        by_gene[name] = metrics.score_genes(truth, values, sites.genes, name + where, depth)
        ratio = metrics.moran_ratio(truth, values, sites.xy_um, n_neighbours)
        models[name] = metrics.summarise(by_gene[name]) | {str(Metric.MORAN_RATIO): ratio}
    return by_gene, models


_UNPRINTED = (Metric.RMSE, Metric.SHARE_ABOVE, Metric.UNDEFINED, Metric.MORAN_RATIO)
"""These do not fit a terminal; `scores.json` and the report hold every metric."""


def format_table(scores: Mapping[str, Any]) -> str:
    """Format the record of `build_scores` as a table of models x metrics, best first, a star at the best of a column.

    Super-resolution follows where it could be scored, then the verdict.
    """
    buffer = f", {scores['n_buffer']} between them left out" if scores["n_buffer"] else ""
    others = f", learned from {', '.join(scores['other_sections'])} too" if scores["other_sections"] else ""
    lines = [
        f"Section {scores['section']}, protocol {scores['protocol']}: {scores['n_hidden']} hidden spots, "
        f"{scores['n_train']} visible{buffer}{others}, {scores['n_genes']} genes; "
        f"noise ceiling of the mean PCC {scores['noise_ceiling'][Metric.PCC_MEAN]:.3f}",
        *_rows(scores["models"]),
        *reach(scores),
    ]
    if scores["coverage_90"] is not None:
        covered = f"{scores['coverage_90']:.1%} of the hidden values"
        lines.append(f"90 % intervals of {model_of(scores)} cover {covered}.")
    if draws := scores.get("draws"):
        ratios = (draws[Metric.VARIANCE_RATIO], draws[Metric.MORAN_RATIO], draws["gene_structure"])
        variance, moran, structure = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"{draws['n_draws']} draws, against the measurement: variance ratio {variance}, Moran's I ratio {moran}, "
            f"correlation of the gene-gene correlations {structure}."
        )
    if between := scores.get("super_resolution"):
        lines += ["", f"Super-resolution {between['factor']:.2f} x, {between['n_sites']} sites with a known truth"]
        lines += [*_rows(between["models"]), between["verdict"]]
    return "\n".join([*lines, "", scores["verdict"]])


def _rows(models: Models) -> list[str]:
    order = sorted(models, key=lambda name: -models[name][Metric.PCC_MEAN])
    columns = [["model", *order]]
    for metric in (metric for metric in Metric if metric not in _UNPRINTED):
        best = models.get(best_model(models, metric) or "", {}).get(metric)
        columns.append([metric.value, *(_cell(models[name].get(metric), best) for name in order)])
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
        for name, *cells in zip(*columns, strict=True)
    ]


def _cell(value: float | None, best: float | None) -> str:
    if value is None:
        return "-  "
    text = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f"{text} {'*' if value == best else ' '}"

"""All scores of a run, gathered in one plain record, `scores.json`, and printed as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, NO_IMAGE, PEERS, Metric, Model, display_name
from spamcaf.scoring import intervals, limits, metrics
from spamcaf.scoring.domains import describe_domains
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


def best_beyond_interval(record: Mapping[str, Any]) -> dict[Metric, str | None]:
    """Return by metric the model that is best by more than the interval of its difference to every other one.

    None where another model is level with it, or the metric has no better and worse. `record` is that of
    `build_scores` or `score_super_resolution`; one of an earlier version has no intervals, and any difference counts.
    """
    if "comparison" not in record:
        return {metric: best_model(record["models"], metric) for metric in Metric}
    found = {
        Metric(metric): None if rival["level"] else rival["best"] for metric, rival in record["comparison"].items()
    }
    return {metric: found.get(metric) for metric in Metric}


def verdict(models: Models, model: str, where: str, difference: Sequence[float] | None = None) -> str:
    """Compare `model` with the best baseline by mean PCC, in one sentence; `where` names the sites scored.

    `difference` is the 95 % interval of the difference between the two; when it holds 0, they are level.
    """
    best = best_baseline(models)
    if model not in models or best is None:
        names = ", ".join(map(display_name, models))
        return f"No verdict at {where}: {display_name(model)} and at least one baseline must be scored, found {names}."
    ours, theirs = (float(models[name][Metric.PCC_MEAN]) for name in (model, best))
    figures = f"mean PCC {ours:.3f} against {theirs:.3f} at {where}"
    if difference is not None:
        figures += f", difference {difference[0]:+.3f} to {difference[1]:+.3f} in 95 % of bootstraps over genes"
    is_level = difference is not None and difference[0] <= 0 <= difference[1]
    sentence = _compare(display_name(model), ours, best, theirs, figures, is_level)
    if model == Model.SPAMCAF and Model.PROGRAM_GP in models:
        alone = float(models[Model.PROGRAM_GP][Metric.PCC_MEAN])
        change = round(ours - alone, 3)
        sentence += f"; its Gaussian process alone has {alone:.3f}"
        sentence += f", the network changes that by {change:+.3f}" if change else " too"
    return f"{sentence}."


def _compare(model: str, ours: float, best: str, theirs: float, figures: str, is_level: bool) -> str:
    rival = f"the best {'peer' if best in PEERS else 'baseline'}, {display_name(best)}"
    if is_level or (theirs > 0 and abs(ours / theirs - 1) < _LEVEL):
        return f"{model} is level with {rival} ({figures})"
    if theirs <= 0:
        word = "beats" if ours > theirs else "does not beat"
        return f"{model} {word} {rival} ({figures}; no factor, for the baseline is not above 0)"
    if ours > theirs:
        return f"{model} beats {rival}, by a factor of {ours / theirs:.2f} ({figures})"
    return f"{model} does NOT beat {rival}: it reaches {ours / theirs:.2f} of it ({figures})"


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
    image: bool = True  # False: coordinates and expression alone


@dataclass(frozen=True)
class HiddenSpots:
    """The hidden spots: (spot, gene) expression as log1p CP10k, raw counts of the same genes, (spot,) depth."""

    genes: Sequence[str]
    xy_um: NDArray[np.float64]
    expression: NDArray[np.float32]
    counts: NDArray[np.number]
    depth: NDArray[np.number]
    index: NDArray[np.integer] | None = None  # (spot, 2), array_col and array_row: without them there is no SSIM


@dataclass(frozen=True)
class SuperResolution:
    """Sites between the spots whose expression is known: (site, gene) truth, and prediction by model."""

    factor: float
    genes: Sequence[str]
    xy_um: NDArray[np.float64]
    expression: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.float32]]
    index: NDArray[np.integer] | None = None  # (site, 2), as that of `HiddenSpots`


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
        A row per model and gene, with the gene's noise ceiling and reachable limit (NaN where there is none). Rows of
        the run's model have the 95 % interval of its PCC minus that of the best baseline (difference_low and _high).
    """
    truth = hidden.expression
    by_gene, models = _score(hidden, predictions, setting.lattice, depth=hidden.depth)
    by_gene_ceiling = limits.noise_ceiling(hidden.counts, hidden.depth, hidden.genes, setting.seed)
    ceiling = limits.summarise_ceiling(by_gene_ceiling)
    reachable = None if visible is None else limits.reachable_limit(visible, truth, hidden.genes, setting.seed)
    compared = _with_intervals(by_gene, models, setting.model, "hidden spots", setting.seed)
    scores: dict[str, Any] = {
        "section": setting.section,
        "model": setting.model,
        "protocol": setting.protocol,
        "n_train": setting.n_train,
        "n_hidden": len(truth),
        "n_buffer": setting.n_buffer,
        "other_sections": list(setting.others),
        **({} if setting.image else {"image": NO_IMAGE}),
        "n_genes": len(hidden.genes),
        "models": models,
        "noise_ceiling": _with_shares(ceiling, models),
        "reachable_limit": None if reachable is None else _with_shares(limits.summarise_limit(reachable), models),
        "coverage_90": None if sd is None else metrics.interval_coverage(truth, predictions[setting.model], sd),
        "calibration": None if sd is None else metrics.calibration(truth, predictions[setting.model], sd),
        **compared,
    }
    baseline = best_baseline(models)
    if baseline is not None and (ours := setting.model) in models:
        low, high = intervals.correlation_differences(truth, predictions[ours], predictions[baseline], setting.seed)
        by_gene[ours] = by_gene[ours].assign(difference_low=low, difference_high=high)
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
        reached = "" if share is None else f"; {display_name(model)} reaches {share:.0%} of it"
        sentences.append(
            f"Reachable limit of the mean PCC {limit[Metric.PCC_MEAN]:.3f}: what the hidden spots' own other genes "
            f"predict{reached}."
        )
    if Model.DEPTH_ONLY in models and ours > 0:
        share = models[Model.DEPTH_ONLY][Metric.PCC_MEAN] / ours
        sentences.append(f"Sequencing depth alone, predicted likewise, explains {share:.0%} of the score.")
    if best_model(models, Metric.MAE) == Model.GENE_MEDIAN:
        sentences.append(
            "The least MAE is that of each gene's median, a constant: where most values are 0, MAE shows no skill."
        )
    return sentences


def describe_gene_sets(scores: Mapping[str, Any]) -> list[str]:
    """Say in a sentence how well the model and the best baseline predict each gene set; none where there are no sets.

    `scores` is the record of `scores.json`, with `gene_sets` of `scoring.gene_sets.score_gene_sets`.
    """
    model, parts = model_of(scores), []
    for name, one in scores.get("gene_sets", {}).items():
        models, best = one["models"], best_baseline(one["models"])
        ours = f"{models[model][Metric.PCC_MEAN]:.3f}" if model in models else "not scored"
        theirs = "" if best is None else f" ({display_name(best)} {models[best][Metric.PCC_MEAN]:.3f})"
        parts.append(f"{name} {ours}{theirs}")
    if not parts:
        return []
    return [f"Mean PCC of {display_name(model)} by gene set, in brackets the best baseline: {', '.join(parts)}."]


def score_super_resolution(sites: SuperResolution, model: str, lattice: str, seed: int = 0) -> dict[str, Any]:
    """Score every prediction between the spots, `model` being the fitted one: `super_resolution` of `scores.json`."""
    where = " between the spots"
    by_gene, models = _score(sites, sites.predictions, lattice, where)
    compared = _with_intervals(by_gene, models, model, f"sites{where}", seed)
    return {"factor": sites.factor, "n_sites": len(sites.expression), "models": models, **compared}


def _with_intervals(
    by_gene: Mapping[str, pd.DataFrame], models: Models, model: str, where: str, seed: int
) -> dict[str, Any]:
    """Return each score's interval, by metric the best model and those level with it, and the verdict.

    A model is not compared with a part of itself.
    """
    samples = intervals.bootstrap(by_gene, seed)
    is_part = {Model.PROGRAM_GP} if model == Model.SPAMCAF and model in models else set()
    rivals = {name: models[name] for name in models if name not in is_part}
    best = {metric: best_model(rivals, metric) for metric in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)}
    comparison = {
        str(metric): {"best": name, "level": intervals.level_with(samples[metric], name, list(rivals))}
        for metric, name in best.items()
        if name is not None and metric in samples
    }
    difference, baseline = None, best_baseline(models)
    if baseline is not None and model in models:
        pcc = samples[Metric.PCC_MEAN]
        difference = intervals.interval(pcc[model] - pcc[baseline])
    by_model = {name: {str(m): intervals.interval(s[name]) for m, s in samples.items() if name in s} for name in models}
    words = verdict(models, model, where, difference)
    return {"intervals": by_model, "comparison": comparison, "difference": difference, "verdict": words}


def _score(
    sites: HiddenSpots | SuperResolution,
    predictions: Mapping[str, NDArray[np.float32]],
    lattice: str,
    where: str = "",
    depth: NDArray[np.number] | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, Any]]]:
    """Return the scores of each model by gene, and their summaries."""
    truth, n_neighbours = sites.expression, min(metrics.NEIGHBOURS[lattice], len(sites.expression) - 1)
    windows = None if sites.index is None else metrics.lattice_windows(sites.index, lattice)
    by_gene, models = {}, {}
    for name, values in predictions.items():
        by_gene[name] = metrics.score_genes(truth, values, sites.genes, name + where, depth, windows)
        models[name] = metrics.summarise(by_gene[name]) | {
            str(Metric.PCC_SPOTS): metrics.correlate_spots(truth, values),
            str(Metric.GENE_STRUCTURE): metrics.gene_structure(truth, values),
            str(Metric.MORAN_RATIO): metrics.moran_ratio(truth, values, sites.xy_um, n_neighbours),
        }
    return by_gene, models


_PRINTED = (
    Metric.PCC_MEAN,
    Metric.PCC_TOP50,
    Metric.SPEARMAN_MEAN,
    Metric.PCC_DEPTH_REMOVED,
    Metric.SSIM,
    Metric.MSE,
    Metric.VARIANCE_RATIO,
)
"""As many as fit a terminal; `scores.json` and the report hold every metric."""


def format_table(scores: Mapping[str, Any]) -> str:
    """Format the record of `build_scores` as a table of models x metrics, best first.

    A star marks the best of a column, unless another model is level with it, see `best_beyond_interval`.

    Super-resolution follows where it could be scored, then the verdict.
    """
    buffer = f", {scores['n_buffer']} between them left out" if scores["n_buffer"] else ""
    others = f", learned from {', '.join(scores['other_sections'])} too" if scores["other_sections"] else ""
    blind = ", WITHOUT AN IMAGE" if scores.get("image") == NO_IMAGE else ""
    lines = [
        f"Section {scores['section']}{blind}, protocol {scores['protocol']}: {scores['n_hidden']} hidden spots, "
        f"{scores['n_train']} visible{buffer}{others}, {scores['n_genes']} genes; "
        f"noise ceiling of the mean PCC {scores['noise_ceiling'][Metric.PCC_MEAN]:.3f}",
        *_rows(scores),
        *reach(scores),
        *describe_gene_sets(scores),
        *describe_domains(scores),
    ]
    if scores["coverage_90"] is not None:
        covered = f"{scores['coverage_90']:.1%} of the hidden values"
        lines.append(f"90 % intervals of {display_name(model_of(scores))} cover {covered}.")
    if draws := scores.get("draws"):
        ratios = (draws[Metric.VARIANCE_RATIO], draws[Metric.MORAN_RATIO], draws["gene_structure"])
        variance, moran, structure = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"{draws['n_draws']} draws, against the measurement: variance ratio {variance}, Moran's I ratio {moran}, "
            f"correlation of the gene-gene correlations {structure}."
        )
    if between := scores.get("super_resolution"):
        lines += ["", f"Super-resolution {between['factor']:.2f} x, {between['n_sites']} sites with a known truth"]
        lines += [*_rows(between), between["verdict"]]
    return "\n".join([*lines, "", scores["verdict"]])


def by_rank(models: Models) -> list[str]:
    """Return the models by mean PCC, the best first: the order of every table."""
    return sorted(models, key=lambda name: -models[name][Metric.PCC_MEAN])


def _rows(record: Mapping[str, Any]) -> list[str]:
    models, best = record["models"], best_beyond_interval(record)
    order = by_rank(models)
    columns = [["model", *map(display_name, order)]]
    for metric in _PRINTED:
        columns.append([metric.value, *(_cell(models[name].get(metric), name == best[metric]) for name in order)])
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
        for name, *cells in zip(*columns, strict=True)
    ]


def _cell(value: float | None, is_best: bool) -> str:
    if value is None:
        return "-  "
    text = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f"{text} {'*' if is_best else ' '}"

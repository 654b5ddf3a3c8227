"""Everything a run is judged by, gathered in one plain record, `scores.json`, with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.names import OUR_MODELS, Metric, Model, model_of_run
from spamcaf.scoring.metrics import (
    NEIGHBOURS,
    interval_coverage,
    moran_ratio,
    noise_ceiling,
    score_genes,
    summarise,
    summarise_ceiling,
)

_LEVEL = 0.005
"""Factors closer to 1 than this are printed as level: they vanish in the two decimals."""


def verdict(models: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """Return one sentence on the run's model, `spamcaf` unless only `released` was fitted, against the best baseline.

    What counts is the mean PCC; `where` are the places scored.
    """
    pcc = {name: float(scores[Metric.PCC_MEAN]) for name, scores in models.items()}
    baselines = {name: value for name, value in pcc.items() if name not in OUR_MODELS}
    model = model_of_run(pcc)
    if model not in pcc or not baselines:
        return f"No verdict at {where}: {model} and at least one baseline must be scored, found {', '.join(pcc)}."
    best = max(baselines, key=baselines.__getitem__)
    said = _compare(model, pcc[model], best, baselines[best], where)
    return f"{said}{_own_part(pcc) if model == Model.SPAMCAF else ''}."


def _compare(model: str, ours: float, best: str, theirs: float, where: str) -> str:
    figures = f"mean PCC {ours:.3f} against {theirs:.3f} at {where}"
    if theirs <= 0:
        word = "beats" if ours > theirs else "does not beat"
        return f"{model} {word} the best baseline, {best} ({figures}; no factor, for the baseline is not above 0)"
    factor = ours / theirs
    if abs(factor - 1) < _LEVEL:
        return f"{model} is level with the best baseline, {best} ({figures})"
    if factor > 1:
        return f"{model} beats the best baseline, {best}, by a factor of {factor:.2f} ({figures})"
    return f"{model} does NOT beat the best baseline, {best}: it reaches {factor:.2f} of it ({figures})"


def _own_part(pcc: Mapping[str, float]) -> str:
    """Say what the program Gaussian process, a part of spamcaf, does alone."""
    if Model.PROGRAM_GP not in pcc:
        return ""
    alone = pcc[Model.PROGRAM_GP]
    gain = pcc[Model.SPAMCAF] - alone
    return f"; its program Gaussian process alone has {alone:.3f}, the network changes that by {gain:+.3f}"


@dataclass(frozen=True)
class Setting:
    """What was scored: the section's name, the protocol that hid the spots, the lattice.

    `n_train` spots were learned from; `n_buffer` spots are neither learned from nor scored, see `sections.split`;
    `others` are further sections learned from.
    """

    section: str
    protocol: str
    n_train: int
    n_buffer: int
    others: tuple[str, ...]
    lattice: str
    seed: int


@dataclass(frozen=True)
class HeldOut:
    """The hidden spots: (spot, gene) expression as log1p CP10k, raw counts of the same genes, (spot,) depth."""

    genes: Sequence[str]
    xy_um: NDArray[np.float64]
    expression: NDArray[np.float32]
    counts: NDArray[np.number]
    depth: NDArray[np.number]


@dataclass(frozen=True)
class Between:
    """Super-resolution with a truth: (site, gene) expression at sites between the spots, and what each model says."""

    factor: float
    genes: Sequence[str]
    xy_um: NDArray[np.float64]
    expression: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.float32]]


def build_scores(
    setting: Setting,
    held_out: HeldOut,
    predictions: Mapping[str, NDArray[np.float32]],
    sd: NDArray[np.float32] | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score every model on the same hidden spots and genes.

    `predictions` are (spot, gene) by model name; `sd` is the standard deviation of a measurement that the run's model
    predicts, None where it predicts none. Returns the record of `scores.json`, plain data, and one row per model and
    gene with the gene's noise ceiling.
    """
    truth, genes = held_out.expression, held_out.genes
    by_gene = {name: score_genes(truth, values, genes, name) for name, values in predictions.items()}
    ceiling = noise_ceiling(held_out.counts, held_out.depth, genes, setting.seed)
    models = _summaries(by_gene, truth, predictions, held_out.xy_um, setting.lattice)
    scores: dict[str, Any] = {
        "section": setting.section,
        "protocol": setting.protocol,
        "n_train": setting.n_train,
        "n_hidden": len(truth),
        "n_buffer": setting.n_buffer,
        "other_sections": list(setting.others),
        "n_genes": len(genes),
        "models": models,
        "noise_ceiling": _with_shares(summarise_ceiling(ceiling), models),
        "coverage_90": None if sd is None else interval_coverage(truth, predictions[model_of_run(predictions)], sd),
        "verdict": verdict(models, "hidden spots"),
    }
    return scores, _tidy(by_gene, ceiling)


def score_between(between: Between, lattice: str) -> dict[str, Any]:
    """Score every model between the spots, where the truth is known; the record's `super_resolution`."""
    by_gene = {
        name: score_genes(between.expression, values, between.genes, f"{name} between the spots")
        for name, values in between.predictions.items()
    }
    models = _summaries(by_gene, between.expression, between.predictions, between.xy_um, lattice)
    return {
        "factor": between.factor,
        "n_sites": len(between.expression),
        "models": models,
        "verdict": verdict(models, "sites between the spots"),
    }


def _summaries(
    by_gene: Mapping[str, pd.DataFrame],
    truth: NDArray[np.float32],
    predictions: Mapping[str, NDArray[np.float32]],
    xy_um: NDArray[np.float64],
    lattice: str,
) -> dict[str, dict[str, Any]]:
    n_neighbours = min(NEIGHBOURS[lattice], len(truth) - 1)
    return {
        name: summarise(scores) | {str(Metric.MORAN_RATIO): moran_ratio(truth, predictions[name], xy_um, n_neighbours)}
        for name, scores in by_gene.items()
    }


def _with_shares(ceiling: dict[str, float | int], models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Add the share of the mean ceiling that each model reaches, None where the ceiling is 0."""
    top = ceiling["pcc_mean"]
    shares = {name: scores[Metric.PCC_MEAN] / top if top > 0 else None for name, scores in models.items()}
    return ceiling | {"share_reached": shares}


def _tidy(by_gene: Mapping[str, pd.DataFrame], ceiling: pd.DataFrame) -> pd.DataFrame:
    frames = [scores.assign(ceiling=ceiling["ceiling"].to_numpy()) for scores in by_gene.values()]
    tidy = pd.concat(frames, ignore_index=True)
    tidy.insert(0, "model", np.repeat(list(by_gene), [len(frame) for frame in frames]))
    return tidy

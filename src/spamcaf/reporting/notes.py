"""What a reader must know before trusting the figures, written from the scores themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, OUR_MODELS, Metric, Model, model_of_run
from spamcaf.reporting.words import METRICS, MODELS

_SMOOTH = 0.9
_COVERAGE_TOLERANCE = 0.03
_NOMINAL_COVERAGE = 0.9
PROTOCOLS = {
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
    notes = [PROTOCOLS[scores["protocol"]]] if scores["protocol"] in PROTOCOLS else []
    if undefined:
        notes.append(
            f"For {undefined} of {scores['n_genes']} genes the correlation is undefined, since measured or predicted "
            "values are the same everywhere; they count as 0 in every mean."
        )
    return notes

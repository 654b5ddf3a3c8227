"""One honest sentence: does the model beat the best simple one, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spamcaf.names import OUR_MODELS, Metric, Model, model_of_run

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

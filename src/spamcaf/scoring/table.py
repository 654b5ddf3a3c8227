"""The score table as plain text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spamcaf.names import Metric
from spamcaf.scoring.scores import Models, best_model, model_of

_UNPRINTED = (Metric.RMSE, Metric.SHARE_ABOVE, Metric.UNDEFINED, Metric.MORAN_RATIO)
"""These do not fit a terminal; `scores.json` and the report hold every metric."""


def format_table(scores: Mapping[str, Any]) -> str:
    """Format the scores of a run as a table of models x metrics, best first, a star at the best of each column.

    `scores` is the record of `build_scores`. Super-resolution follows where it could be scored, then the verdict.
    """
    buffer = f", {scores['n_buffer']} between them left out" if scores["n_buffer"] else ""
    others = f", learned from {', '.join(scores['other_sections'])} too" if scores["other_sections"] else ""
    lines = [
        f"Section {scores['section']}, protocol {scores['protocol']}: {scores['n_hidden']} hidden spots, "
        f"{scores['n_train']} visible{buffer}{others}, {scores['n_genes']} genes; "
        f"noise ceiling of the mean PCC {scores['noise_ceiling'][Metric.PCC_MEAN]:.3f}",
        *_rows(scores["models"]),
    ]
    if scores["coverage_90"] is not None:
        covered = f"{scores['coverage_90']:.1%} of the hidden values"
        lines.append(f"90 % intervals of {model_of(scores)} cover {covered}.")
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

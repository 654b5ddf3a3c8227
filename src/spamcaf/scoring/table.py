"""The score table as plain text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spamcaf.names import HIGHER_IS_BETTER, LOWER_IS_BETTER, Metric

PRINTED = (
    Metric.PCC_MEAN,
    Metric.PCC_MEDIAN,
    Metric.PCC_TOP50,
    Metric.SPEARMAN_MEAN,
    Metric.MSE,
    Metric.MAE,
    Metric.VARIANCE_RATIO,
)
"""What fits a terminal; `scores.json` and the report hold every metric."""


def format_table(scores: Mapping[str, Any]) -> str:
    """Return the table of models x metrics, best first and a star at each column's best, for `build_scores`' record.

    Ends with the verdict in one sentence. Super-resolution, where it could be scored, stands before it.
    """
    ceiling = scores["noise_ceiling"]["pcc_mean"]
    lines = [
        f"Section {scores['section']}, protocol {scores['protocol']}: {scores['n_hidden']} hidden spots, "
        f"{scores['n_train']} visible{_buffer(scores)}{_others(scores)}, {scores['n_genes']} genes; "
        f"noise ceiling of the mean PCC {ceiling:.3f}",
        *_rows(scores["models"]),
    ]
    if scores["coverage_90"] is not None:
        lines.append(f"90 % intervals of spamcaf cover {scores['coverage_90']:.1%} of the hidden values.")
    between = scores.get("super_resolution")
    if between:
        lines += ["", f"Super-resolution {between['factor']:.2f} x, {between['n_sites']} sites with a known truth"]
        lines += [*_rows(between["models"]), between["verdict"]]
    return "\n".join([*lines, "", scores["verdict"]])


def _buffer(scores: Mapping[str, Any]) -> str:
    return f", {scores['n_buffer']} between them left out" if scores["n_buffer"] else ""


def _others(scores: Mapping[str, Any]) -> str:
    return f", learned from {', '.join(scores['other_sections'])} too" if scores["other_sections"] else ""


def _rows(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    order = sorted(models, key=lambda name: -models[name][Metric.PCC_MEAN])
    columns = [["model", *order]]
    for metric in PRINTED:
        values = [models[name].get(metric) for name in order]
        best = _best(metric, values)
        columns.append([str(metric), *(_cell(value, value == best) for value in values)])
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if first else cell.rjust(width)
            for cell, width, first in zip(row, widths, [True] + [False] * (len(row) - 1), strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _best(metric: Metric, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if metric in HIGHER_IS_BETTER and known:
        return max(known)
    return min(known) if metric in LOWER_IS_BETTER and known else None


def _cell(value: float | None, is_best: bool) -> str:
    if value is None:
        return "-  "
    text = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f"{text} {'*' if is_best else ' '}"

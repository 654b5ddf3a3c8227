"""Charts of the report as plain shapes, which the page draws as SVG: they scale, print, and need no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 42
_MAX_POINTS = 3000
_BIN = 0.05
_MAX_TICKS = 6
OUTCOMES = {"win": "better", "level": "level", "loss": "worse"}

Points = NDArray[np.float64]


@dataclass
class Chart:
    """Axes from `x` to `y`, and shapes in the units of the SVG: `lines` and `bars` by class, `points` of genes."""

    title: str
    caption: str
    x: tuple[str, float, float]  # label, lowest, highest
    y: tuple[str, float, float]
    legend: list[tuple[str, str]] = field(default_factory=list)  # class, label
    lines: list[tuple[str, str]] = field(default_factory=list)  # class, "x,y x,y"
    bars: list[tuple[str, float, float, float, float]] = field(default_factory=list)  # class, x, y, width, height
    points: list[dict[str, Any]] = field(default_factory=list)
    size: tuple[int, int] = (WIDTH, HEIGHT)
    box: tuple[int, int, int, int] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)  # left, top, right, bottom

    def place(self, x: Any, y: Any) -> Points:  # noqa: ANN401  numbers or arrays
        """Return data coordinates as (point, 2) in the SVG, to a tenth of its unit."""
        (_, x0, x1), (_, y0, y1), (left, top, right, bottom) = self.x, self.y, self.box
        across = left + (np.asarray(x, float) - x0) / (x1 - x0) * (right - left)
        up = bottom - (np.asarray(y, float) - y0) / (y1 - y0) * (bottom - top)
        return np.column_stack(np.broadcast_arrays(across, up)).round(1)

    def add_line(self, kind: str, x: Sequence[float] | Points, y: Sequence[float] | Points, label: str = "") -> None:
        """Add a line through the points, in the legend where it has a label."""
        self.lines.append((kind, " ".join(f"{a:g},{b:g}" for a, b in self.place(x, y))))
        if label:
            self.legend.append((kind, label))

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Place and text of the ticks."""
        values = _ticks(*self.x[1:])
        return [(a, f"{value:g}") for (a, _), value in zip(self.place(values, self.y[1]), values, strict=True)]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Place and text of the ticks."""
        values = _ticks(*self.y[1:])
        places = self.place(self.x[1], values)
        return [(b, f"{value:g}") for (_, b), value in zip(places, values, strict=True)]


def _ticks(low: float, high: float) -> Points:
    from matplotlib.ticker import MaxNLocator

    values = np.asarray(MaxNLocator(_MAX_TICKS, steps=[1, 2, 5, 10]).tick_values(low, high), float)
    inside = (values >= low - 1e-9) & (values <= high + 1e-9)
    ticks: Points = values[inside].round(9) + 0.0  # no negative zero
    return ticks


def _range(*values: Points | pd.Series) -> tuple[float, float]:
    """Return a range that holds all values and 0, with a margin."""
    together = np.concatenate([np.asarray(v, float) for v in values])
    together = np.append(together[np.isfinite(together)], 0.0)
    low, high = float(together.min()), float(together.max())
    margin = 0.03 * ((high - low) or 1.0)
    return low - (margin if low < 0 else 0.0), high + margin


def pcc_histogram(genes: pd.DataFrame, names: Mapping[str, str]) -> Chart:
    """Count genes by PCC: `ours` as bars, the other columns that `names` labels, and that have values, as lines."""
    drawn = [column for column in names if genes[column].notna().any()]
    lowest = min(float(genes[column].min()) for column in drawn)
    edges = np.arange(np.floor(min(lowest, 0.0) / _BIN), round(1 / _BIN) + 1) * _BIN
    counts = {column: np.histogram(genes[column].dropna().clip(edges[0], edges[-1]), edges)[0] for column in drawn}
    highest = max(int(count.max()) for count in counts.values())
    chart = Chart(
        "Genes by PCC",
        "How many genes have which correlation at hidden spots, and how high a perfect prediction would be.",
        ("PCC of a gene", float(edges[0]), 1.0),
        ("genes", 0.0, 1.05 * highest),
    )
    for column, count in counts.items():
        if column == "ours":
            (corners, floor) = chart.place(edges, np.append(count, 0)), chart.box[3]
            for (x, y), (x_next, _) in pairwise(corners):
                chart.bars.append(("ours", x, y, round(x_next - x - 0.6, 1), round(floor - y, 1)))
            chart.legend.append(("ours", names[column]))
        else:
            chart.add_line(column, np.repeat(edges, 2), np.concatenate([[0], np.repeat(count, 2), [0]]), names[column])
    return chart


def gene_scatter(genes: pd.DataFrame, column: str, label: str, title: str, ours: str, *, diagonal: bool) -> Chart:
    """Draw a point per gene: PCC against `column`, its shape by the outcome against the best baseline."""
    known = genes[genes[column].notna()]
    shown = known.iloc[np.unique(np.linspace(0, len(known) - 1, min(len(known), _MAX_POINTS)).astype(int))]
    both = [shown[column], shown["ours"]]
    caption = "A point per gene; above the line the gene is predicted better." if diagonal else "A point per gene."
    if len(shown) < len(known):
        caption += f" Every {len(known) / len(shown):.1f}th of {len(known)} genes is drawn."
    x_range, y_range = (_range(*both), _range(*both)) if diagonal else (_range(both[0]), _range(both[1]))
    chart = Chart(title, caption, (label, *x_range), (f"PCC, {ours}", *y_range))
    if diagonal:
        chart.add_line("diagonal", x_range, x_range)
    outcomes = known["outcome"].value_counts()
    chart.legend = [(kind, f"{word}: {outcomes[kind]}") for kind, word in OUTCOMES.items() if kind in outcomes]
    for (x, y), row in zip(chart.place(shown[column], shown["ours"]), shown.itertuples(), strict=True):
        text = f"{row.gene}: {label} {getattr(row, column):.2f}, {ours} {row.ours:.2f}"
        chart.points.append({"x": x, "y": y, "kind": row.outcome, "gene": row.gene, "text": text})
    return chart


def calibration_curve(calibration: Sequence[Sequence[float]]) -> Chart:
    """Draw the share of hidden values inside the predicted intervals against the level of the intervals."""
    level, covered = np.asarray(calibration, float).T
    chart = Chart(
        "Calibration",
        "Above the line the intervals are too wide, below it too narrow: on average over genes, not for each one.",
        ("predicted coverage", 0.0, 1.0),
        ("observed coverage", 0.0, 1.0),
    )
    chart.add_line("diagonal", [0, 1], [0, 1], "as predicted")
    chart.add_line("curve", level, covered, "observed")
    return chart

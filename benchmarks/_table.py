"""Scores gathered by row and column, printed as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Table:
    """Means of what was added under each row and column; the last column is the mean of the columns."""

    title: str
    decimals: int = 4
    cells: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, column: str, value: float) -> None:
        """Add one value."""
        self.cells.setdefault(row, {}).setdefault(column, []).append(value)

    def value(self, row: str, column: str) -> float:
        """Return the mean of one cell, NaN where nothing was added."""
        found = self.cells.get(row, {}).get(column, [])
        return float(np.mean(found)) if found else float("nan")

    def mean(self, row: str) -> float:
        """Return the mean over columns."""
        return float(np.mean([self.value(row, column) for column in self.cells[row]]))

    @property
    def columns(self) -> list[str]:
        """Columns in the order in which they first came."""
        return list(dict.fromkeys(column for row in self.cells.values() for column in row))

    def best(self, rows: Sequence[str]) -> str:
        """Return the row of `rows` with the best mean."""
        return max((row for row in rows if row in self.cells), key=self.mean)

    def markdown(self, notes: Sequence[str] = ()) -> str:
        """Return title, table and notes."""
        head = ["", *self.columns, "mean"]
        lines = [f"### {self.title}", "", _line(head), _line(["---"] * len(head))]
        for row in self.cells:
            values = [self.value(row, column) for column in self.columns] + [self.mean(row)]
            lines.append(_line([row, *("" if np.isnan(v) else f"{v:.{self.decimals}f}" for v in values)]))
        return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def ratios(table: Table, ours: str, against: Callable[[str], float], columns: Sequence[str]) -> str:
    """Return "column ratio" for each of `columns`, of our score to `against(column)`."""
    return ", ".join(f"{column} {_ratio(table.value(ours, column), against(column))}" for column in columns)


def versus_best(table: Table, ours: str, baselines: Sequence[str]) -> str:
    """Say how `ours` stands to the baseline with the best mean, and to the best one of each column."""
    best = table.best(baselines)
    mean = _ratio(table.mean(ours), table.mean(best))
    there = [row for row in baselines if row in table.cells]
    each = ratios(table, ours, lambda column: max(table.value(row, column) for row in there), table.columns)
    verdict = "" if table.mean(ours) >= table.mean(best) else " **It loses.**"
    return f"{ours} / best baseline ({best}) by the mean: {mean}.{verdict} Against the best of each column: {each}."


def worst_difference(table: Table, ours: str, other: str) -> str:
    """Say how far `ours` is from `other` in the worst column, and on the mean."""
    column = min(table.columns, key=lambda c: table.value(ours, c) - table.value(other, c))
    worst = table.value(ours, column) - table.value(other, column)
    return f"{ours} - {other}: mean {table.mean(ours) - table.mean(other):+.4f}, worst {worst:+.4f} ({column})."


def _ratio(ours: float, other: float) -> str:
    return f"{ours / other:.3f} x" if other > 0 else "no ratio, the other is not above 0"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

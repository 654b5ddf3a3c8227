"""The benchmarks run on tiny made-up arrays, and print complete tables."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a script on tiny arrays in this process, and returns what it prints."""

    def run(script: str, *arguments: str) -> str:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(sys, "argv", [script, "--quick", *arguments])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def rows(text: str, title: str) -> dict[str, list[float]]:
    """Return the numbers of each row of the table under the first title that begins so."""
    lines = text.split(f"### {title}", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| ---"))
    found = {}
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name] = [float(cell) for cell in cells if cell]
    return found


def test_training_prints_time_and_growth(run: Callable[..., str]) -> None:
    text = run("training.py", "--score-epochs", "1", "--threads", "1")
    time = rows(text, "Training")
    fit_s, _, whole_s, *_ = time["released, 1 epochs, 1 thread"]
    assert whole_s == pytest.approx(1000 * fit_s, abs=51)  # printed with one decimal
    growth = rows(text.replace("| - ", "| 0 ").replace("nan", "0"), "Growth")
    assert all(values[0] > 0 for name, values in growth.items() if name.isdigit())

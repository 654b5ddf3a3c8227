"""The benchmarks run on tiny made-up arrays, and print complete tables."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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
        found[name] = [float(cell) for cell in cells if cell not in {"", "-"}]
    return found


def test_training_prints_time_and_growth(run: Callable[..., str]) -> None:
    text = run("training.py", "--score-epochs", "1", "--threads", "1")
    time = rows(text, "Training")
    fit_s, _, whole_s, *_ = time["released, 1 epochs, 1 thread"]
    assert whole_s == pytest.approx(1000 * fit_s, abs=51)  # printed with one decimal
    growth = rows(text.replace("| - ", "| 0 ").replace("nan", "0"), "Growth")
    assert all(values[0] > 0 for name, values in growth.items() if name.isdigit())


def test_large_prints_time_memory_and_growth_of_every_step(run: Callable[..., str]) -> None:
    found = rows(run("large.py"), "Steps")
    expected = ("check_section", "made-up features", "fit_spamcaf", "predict_grid", "score_predictions", "write_report")
    assert found.keys() >= set(expected)
    assert min(found["fit_spamcaf"][:2]) > 0.1  # s
    for _, _, peak, more_peak, _ in found.values():
        assert 0.1 < min(peak, more_peak) < 4  # GB
    *whole, (last, *_) = (values for values in found.values())
    assert last == pytest.approx(sum(values[0] for values in whole), abs=0.05 * len(found))


def test_bins_are_predicted_from_pooled_spots_better_than_by_their_mean(run: Callable[..., str]) -> None:
    found = rows(run("super_resolution.py"), "Bins predicted")
    assert found["SpaMCAF"][0] > 0.3 > found["Gene mean"][0]
    assert found.keys() >= {"Kriging", "Nearest spot", "Ridge on image features"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this would measure it")
def test_without_a_gpu_its_command_says_that_nothing_was_measured(run: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        run("gpu.py")


def test_libraries_prints_both_tables(run: Callable[..., str]) -> None:
    text = run("libraries.py")
    embedding, process = rows(text, "Embedding"), rows(text, "Process")
    assert {"timm and a data loader", "spamcaf, exact", "spamcaf, dense"} <= set(embedding)
    assert process["spamcaf"][1] == 1
    # the same kernels fitted to the same spots predict alike
    assert process["scikit-learn"][2] == pytest.approx(process["spamcaf"][2], abs=0.1)

"""The pipeline benchmark: what it runs, what it does not run again, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spamcaf.errors import InputError
from spamcaf.parameters import BenchmarkSettings, SplitSettings
from spamcaf.pipelines.benchmark.nodes import distinct_masks, run_benchmark

Run = Callable[..., subprocess.CompletedProcess[str]]
WORDS = ("run", "--pipelines", "benchmark", "--params")
FAST = "fit.use_network=false,panel.n_genes=30"
REPORTING = "data/08_reporting"


@pytest.fixture(scope="module")
def folder(copy_finished: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_finished(tmp_path_factory.mktemp("benchmark") / "project")


def times(folder: Path, run: str) -> dict[str, int]:
    """Return when each result of a run was written."""
    found = [p for p in (folder / "data").rglob("*") if p.is_file() and run in p.parts]
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in found}


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / REPORTING / "benchmark/default/benchmark.csv")


def test_a_killed_benchmark_goes_on_and_one_more_mask_costs_one_mask(kedro: Run, folder: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "kedro", *WORDS, f"masks=0-1,{FAST}", "--env", "tiny"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    first = folder / REPORTING / "simulated/default-random-0/.provenance/hidden_scores.json.json"
    while process.poll() is None and not first.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists() and not list((folder / REPORTING / "benchmark").rglob("*.csv"))
    shared, finished = times(folder, "04_feature"), times(folder, "default-random-0")
    assert "gene_scores.csv" in str(finished) and "model.safetensors" in str(finished)
    assert "full_model" not in str(finished) and "super_resolved" not in str(finished)

    done = kedro(*WORDS, f"masks=0-1,{FAST}", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "random, mask 0: stored" in done.stdout and "random, mask 1: stored" not in done.stdout
    two = table(folder)

    done = kedro(*WORDS, f"masks=0-2,{FAST}", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": stored") == 2 and "random, mask 2: stored" not in done.stdout
    assert times(folder, "default-random-0") == finished and times(folder, "04_feature") == shared
    assert table(folder)["n_masks"].unique().tolist() == [3]

    for mask in (0, 1):  # nothing of the killed run is left: the same table
        for path in times(folder, f"default-random-{mask}"):
            (folder / path).unlink()
    done = kedro(*WORDS, f"masks=0-1,{FAST}", folder=folder)
    assert done.returncode == 0 and ": stored" not in done.stdout, done.stderr
    pd.testing.assert_frame_equal(table(folder), two)
    assert "| SpaMCAF |" in done.stdout and "benchmark/default/report.html" in done.stdout.splitlines()[-1]
    record = json.loads((folder / REPORTING / "benchmark/default/benchmark.json").read_text())
    assert record["masks"] == {"random": [0, 1]} and len(record["rows"]) == len(two)
    made_with = folder / REPORTING / "benchmark/default/.provenance/benchmark.csv.json"
    assert json.loads(made_with.read_text())["made_with"]["panel.n_genes"] == 30


HIDDEN_SCORES: dict[str, Any] = {
    "model": "spamcaf",
    "models": {"spamcaf": {"pcc_mean": 0.3}, "idw": {"pcc_mean": 0.1}},
    "verdict": "SpaMCAF beats inverse distance.",
    "other_sections": [],
    "n_hidden": 3,
    "n_train": 4,
    "n_genes": 6,
}


class FakeRuns:
    """Make scores of no section, and remember what was asked for; `fail_at` counts the results before an error."""

    section, run = "A", "mine"

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fail_at = fail_at

    def make(self, name: str, choices: dict[str, Any]) -> tuple[Any, int]:
        self.asked.append((name, choices))
        if len(self.asked) - 1 == self.fail_at:
            raise InputError("x", "y", "z")
        if name == "hidden_scores":
            return {**HIDDEN_SCORES, "section": choices["section"]}, 0
        if name != "gene_scores":
            return None, 0
        rng = np.random.default_rng(len(self.asked))
        models = {"spamcaf": 0.3, "idw": 0.1}
        return pd.concat(
            [
                pd.DataFrame({"gene": list("abcdef"), "model": model, "pearson": rng.normal(mean, 0.05, 6), "mse": 1.0})
                for model, mean in models.items()
            ]
        ), 3


def test_every_section_protocol_and_mask_is_a_run_of_its_own() -> None:
    runs = FakeRuns()
    settings = BenchmarkSettings(sections="A+B", masks="0-4", protocols="random+block+section", n_bootstrap=100)  # type: ignore[arg-type]
    found, record, report = run_benchmark(runs, settings, SplitSettings(n_blocks=2), 0)
    assert runs.asked[:2] == [("spot_features", {"section": "A"}), ("spot_features", {"section": "B"})]
    asked = [choices for name, choices in runs.asked if name == "gene_scores"]
    assert len(asked) == 2 * (5 + 2 + 1) and len({(c["section"], c["run"]) for c in asked}) == len(asked)
    assert asked[0] == {"section": "A", "run": "mine-random-0", "split": {"protocol": "random", "mask": 0}}
    assert {c["section"]: c["other_sections"] for c in asked if "other_sections" in c} == {"A": ["B"], "B": ["A"]}
    assert record["masks"] == {"random": [0, 1, 2, 3, 4], "block": [0, 1], "section": [0]}
    assert len(found) == 3 * 3 * 2 and set(found["section"]) == {"A", "B", "all"}
    assert json.loads(json.dumps(record))["rows"][0]["model"] == "spamcaf"
    firsts = [choices["split"] for name, choices in runs.asked if name == "hidden_scores"]
    assert len(firsts) == 2 * 3 and {split["mask"] for split in firsts} == {0}
    assert all(f'<h2 id="run-{i}">{run}' in report for i, run in enumerate(["A, random, mask 0"], 1))
    assert "Over all masks: block" in report and "SpaMCAF beats inverse distance." in report


def test_one_section_is_hidden_with_the_other_sections_of_the_run() -> None:
    runs = FakeRuns()
    run_benchmark(runs, BenchmarkSettings(protocols=["section"], n_bootstrap=100), SplitSettings(), 0)
    assert all("other_sections" not in choices for _, choices in runs.asked)


def test_the_section_of_the_run_is_the_default_and_an_error_ends_the_benchmark() -> None:
    runs = FakeRuns(fail_at=2)
    with pytest.raises(InputError):
        run_benchmark(runs, BenchmarkSettings(), SplitSettings(), 0)
    assert [choices["section"] for _, choices in runs.asked] == ["A"] * 3


@pytest.mark.parametrize(
    ("protocol", "masks", "kept"),
    [
        ("random", [0, 7], [0, 7]),
        ("block", [0, 1, 4, 5], [0, 1]),
        ("lattice", [3, 4], [3, 0]),
        ("section", [2, 3], [0]),
    ],
)
def test_masks_that_hide_the_same_spots_count_once(protocol: str, masks: list[int], kept: list[int]) -> None:
    assert distinct_masks(protocol, masks, SplitSettings()) == kept


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("masks=a-b", "benchmark.masks"),
        ("masks=0+0", "should be named once each"),
        ("protocols=rows", "benchmark.protocols"),
        ("sections=../up", "the section name '../up'"),
    ],
)
def test_what_cannot_be_benchmarked_is_refused(kedro: Run, params: str, message: str) -> None:
    done = kedro(*WORDS, params)
    assert done.returncode == 1 and message in done.stderr.strip().splitlines()[-1]

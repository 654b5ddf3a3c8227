"""The setting `evaluation.models` chooses what stands beside the model, in the table and in the report."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess[str]]
REPORTING = "data/08_reporting/simulated/default"


def test_chosen_models_are_scored_and_named(kedro: Run, finished: Path) -> None:
    words = ("--pipelines", "evaluation", "--params", "evaluation.models=gene_median+rgb_ridge+hest_probe")
    done = kedro("run", *words, folder=finished)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads((finished / REPORTING / "scores.json").read_text())
    ours = {"spamcaf", "program_gp"}
    assert set(scores["models"]) == {"gene_median", "rgb_ridge", "hest_probe"} | ours
    between = set(scores["super_resolution"]["models"])
    assert between == {"gene_median", "hest_probe", "nearest_spot"} | ours
    assert "which they cannot predict: rgb_ridge" in done.stdout
    report = (finished / REPORTING / "report.html").read_text()
    for label in ("Gene median", "Ridge on colours", "HEST probe"):
        assert report.count(label) >= 2, "in the table and explained"
    assert "Sees: colours of the tiles" in report


def test_an_unknown_model_stops_before_any_work(kedro: Run, finished: Path) -> None:
    before = (finished / REPORTING / "scores.json").read_text()
    done = kedro("run", "--params", "evaluation.models=HisToGen", folder=finished)
    assert done.returncode == 1
    assert "Did you mean histogene?" in done.stdout + done.stderr
    assert (finished / REPORTING / "scores.json").read_text() == before

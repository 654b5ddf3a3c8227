"""The table of a cohort as values, text and page, where runs failed, and over masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spamcaf.cohort.plan import SCORES, Job
from spamcaf.cohort.table import Result, line_of, render, tabulate
from spamcaf.cohort.tasks import Outcome, State

PAGE = Path("/p/data/08_reporting/cohort/default/report.html")
SCORED: dict[str, Any] = {
    "model": "spamcaf",
    "models": {"spamcaf": {"pcc_mean": 0.3}, "idw": {"pcc_mean": 0.1}},
    "verdict": "SpaMCAF beats inverse distance.",
    "other_sections": [],
    "n_hidden": 3,
    "n_train": 4,
    "n_genes": 6,
}
FAILED = Outcome(State.FAILED, reason="no section 'B' & C.", next_step="Name another.")


def done(section: str, **more: Any) -> Result:
    outcome = Outcome(State.DONE, seconds=3.0, peak_bytes=2 * 10**9, scores=SCORED, **more)
    return Result(Job(section, "default", {}), outcome)


def test_a_row_holds_scores_or_the_reason() -> None:
    table = tabulate([done("A"), Result(Job("B", "default", {}), FAILED)])
    assert list(table.columns) == [
        *("section", "run", "status", "seconds", "peak_memory_bytes"),
        *("model", "pcc_mean", "best_baseline", "best_baseline_pcc_mean", "reason", "next_step"),
    ]
    first, second = table.astype(object).where(table.notna(), None).to_dict("records")
    assert (first["pcc_mean"], first["best_baseline"], first["best_baseline_pcc_mean"]) == (0.3, "idw", 0.1)
    assert (first["status"], first["peak_memory_bytes"], first["reason"]) == ("done", 2 * 10**9, None)
    assert (second["status"], second["pcc_mean"], second["seconds"]) == ("failed", None, None)
    assert second["next_step"] == "Name another."
    assert line_of(done("A").job, done("A").outcome) == "A/default: done, 3 s, peak memory 2.0 GB, mean PCC 0.300"


def test_text_and_page_name_failures_and_link_to_reports() -> None:
    report = "/p/data/08_reporting/A/default/report.html"
    results = [done("A", report=report), Result(Job("B", "default", {}), FAILED)]
    text, page = render(results, tabulate(results), PAGE, 100, 0)
    assert text.splitlines()[1].split() == [
        "A",
        "default",
        "done",
        "3",
        "s",
        "2.0",
        "GB",
        "0.300",
        "0.100",
        "(Inverse",
        "distance)",
    ]
    assert text.splitlines()[-1] == "B/default: no section 'B' & C. Next step: Name another."
    assert 'href="../../A/default/report.html"' in page
    assert "no section &#39;B&#39; &amp; C. Name another." in page and "2 runs" in page


def test_a_cohort_without_any_score_has_a_page_too() -> None:
    results = [Result(Job("B", "default", {}), FAILED)]
    _, page = render(results, tabulate(results), PAGE, 100, 0)
    assert "No run was scored." in page and "Name another." in page and "Mean PCC at hidden spots" not in page


def test_runs_of_different_models_have_a_page() -> None:
    other = {**SCORED, "model": "released", "models": {"released": {"pcc_mean": 0.2}}}
    results = [done("A"), Result(Job("B", "default", {}), Outcome(State.DONE, scores=other))]
    text, page = render(results, tabulate(results), PAGE, 100, 0)
    assert "fitted with different models" in page and "0.200" in text


def test_masks_are_compared_and_the_first_of_each_section_is_shown() -> None:
    rng = np.random.default_rng(0)
    results = []
    for section, mask in (("A", 0), ("A", 1), ("B", 0), ("B", 1)):
        genes = pd.concat(
            pd.DataFrame({"gene": list("abcdef"), "model": model, "pearson": rng.normal(mean, 0.05, 6), "mse": 1.0})
            for model, mean in (("spamcaf", 0.3), ("idw", 0.1))
        )
        job = Job(section, f"default-random-{mask}", {}, SCORES, protocol="random", mask=mask)
        is_lost = (section, mask) == ("B", 0)
        results.append(Result(job, FAILED if is_lost else Outcome(State.DONE, scores=SCORED, genes=genes)))
    text, page = render(results, tabulate(results), PAGE, 100, 0)
    assert "| SpaMCAF |" in text and "| random, mean PCC [95 %] | A | B | all |" in text
    assert 'id="run-2">B/default-random-1<' in page  # its first mask failed
    assert 'id="run-1">A/default-random-0<' in page and 'id="run-3"' not in page

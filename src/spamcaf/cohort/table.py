"""The table of a cohort: a row per run, as values, as text and as a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from spamcaf.cohort.plan import Job
from spamcaf.cohort.tasks import Outcome, State
from spamcaf.names import Metric, display_name
from spamcaf.progress import bytes_in_words, seconds_in_words
from spamcaf.reporting.report import render_cohort_report
from spamcaf.scoring.benchmark import compare_models, format_markdown, tables_of
from spamcaf.scoring.scores import best_baseline, model_of

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = ("section", "run", "status", "time", "peak memory", "mean PCC", "best baseline")


@dataclass(frozen=True)
class Result:
    """A run and how it ended."""

    job: Job
    outcome: Outcome


def tabulate(results: Sequence[Result]) -> pd.DataFrame:
    """Return a row per run: section, run, status, seconds, peak memory (bytes), scores, reason and next step."""
    rows = []
    for job, outcome in ((r.job, r.outcome) for r in results):
        measured = {"seconds": outcome.seconds, "peak_memory_bytes": outcome.peak_bytes}
        texts = {"reason": outcome.reason or None, "next_step": outcome.next_step or None}
        names = {"section": job.section, "run": job.run, "status": str(outcome.state)}
        rows.append({**names, **measured, **_scores(outcome.scores), **texts})
    return pd.DataFrame(rows).astype({"peak_memory_bytes": "Int64"})


def _scores(scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the mean PCC of a run's model and of its best baseline."""
    found = dict.fromkeys(("model", "pcc_mean", "best_baseline", "best_baseline_pcc_mean"))
    if scores is None:
        return found
    models, model = scores["models"], model_of(scores)
    best = best_baseline(models)
    pcc = {name: models[name][Metric.PCC_MEAN] for name in (model, best) if name in models}
    values = (model, pcc.get(model), best, pcc.get(str(best)))
    return dict(zip(found, values, strict=True))


def line_of(job: Job, outcome: Outcome) -> str:
    """Return how a run ended, in a line."""
    cells = [f"{job.name}{', shared by its runs' if job.is_shared else ''}: {outcome.state}"]
    if outcome.seconds is not None:
        cells.append(seconds_in_words(outcome.seconds))
    if outcome.peak_bytes is not None:
        cells.append(f"peak memory {bytes_in_words(outcome.peak_bytes)}")
    scores = _scores(outcome.scores)
    if scores["pcc_mean"] is not None:
        cells.append(f"mean PCC {scores['pcc_mean']:.3f}")
    return ", ".join([*cells, *([outcome.reason] if outcome.reason else [])])


def _texts(table: pd.DataFrame) -> list[list[str]]:
    """Return the table as rows of text, a header first."""
    rows = [list(HEAD)]
    for row in table.astype(object).where(table.notna(), None).itertuples():
        seconds = "" if row.seconds is None else seconds_in_words(row.seconds)
        memory = "" if row.peak_memory_bytes is None else bytes_in_words(row.peak_memory_bytes)
        pcc = "" if row.pcc_mean is None else f"{row.pcc_mean:.3f}"
        best = row.best_baseline and f"{row.best_baseline_pcc_mean:.3f} ({display_name(row.best_baseline)})"
        rows.append([row.section, row.run, row.status, seconds, memory, pcc, best or ""])
    return rows


def render(results: Sequence[Result], table: pd.DataFrame, page: Path, n: int, seed: int) -> tuple[str, str]:
    """Return the table as text and the report, a page at `page`.

    Where masks were asked for, models are compared over them, with `n` resamples of genes and masks and a `seed`.
    """
    rows = _texts(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = [r for r in results if r.outcome.state is State.FAILED]
    lines += [f"{r.job.name}: {r.outcome.reason} Next step: {r.outcome.next_step}" for r in failed]
    scored = [
        r.outcome.genes.assign(section=r.job.section, protocol=r.job.protocol, mask=r.job.mask)
        for r in results
        if r.outcome.genes is not None
    ]
    tables = {}
    in_all = set.intersection(*(set(genes["model"]) for genes in scored)) if scored else set()
    if in_all:
        genes = pd.concat(scored, ignore_index=True)
        compared = compare_models(genes[genes["model"].isin(in_all)], n, seed)
        lines += ["", format_markdown(compared)]
        tables = tables_of(compared)
    shown = [r for r in results if r.outcome.scores is not None and _is_first(r, results)]
    links = {r.job.name: os.path.relpath(r.outcome.report, page.parent) for r in shown if r.outcome.report}
    states = [[*rows[0], "reason and next step"]]
    for row, r in zip(rows[1:], results, strict=True):
        states.append([*row, f"{r.outcome.reason} {r.outcome.next_step}".strip()])
    html = render_cohort_report([(r.job.name, r.outcome.scores or {}) for r in shown], links, tables, states)
    return "\n".join(lines), html


def _is_first(result: Result, results: Sequence[Result]) -> bool:
    """Tell whether a run is the first of its section and protocol with scores; every run without a mask is one."""
    if result.job.mask is None:
        return True
    of = (result.job.section, result.job.protocol)
    return result is next(r for r in results if (r.job.section, r.job.protocol) == of and r.outcome.scores is not None)

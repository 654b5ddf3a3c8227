"""What a worker does: one run of a cohort in a Kedro session, with its threads, its GPU, and its peak of memory."""

from __future__ import annotations

import gc
import logging
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from spamcaf.cohort.plan import Job, shared_results
from spamcaf.compute import use_threads
from spamcaf.doctor.check import captured_warnings
from spamcaf.errors import InputError, first_line
from spamcaf.provenance import without_home
from spamcaf.run_times import highest_bytes, reset_peak
from spamcaf.sessions import Sessions

if TYPE_CHECKING:
    import pandas as pd

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
FAULT = "If it happens again, report it with `traceback` of cohort.json."


class State(StrEnum):
    """How a run of a cohort ended."""

    DONE = "done"
    WAS_DONE = "was done"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `scores` is its `hidden_scores`, `genes` its `gene_scores` where a mask was asked for."""

    state: State
    seconds: float | None = None
    peak_bytes: int | None = None
    scores: Mapping[str, Any] | None = None
    genes: pd.DataFrame | None = None
    report: str | None = None
    reason: str = ""
    next_step: str = ""
    traceback: str = ""
    warnings: list[str] = field(default_factory=list)


class JobError(Exception):
    """A run ended with an error that is not about the user's input: it may end well at a second try."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def do_job(job: Job, sessions: Sessions, threads: int, gpus: list[str]) -> Outcome:
    """Make what is missing of a run, in this process.

    Parameters
    ----------
    job
    sessions : of the project
    threads : CPU threads
    gpus : devices of this machine, of which each of its workers takes one

    Raises
    ------
    JobError : for an error that is not about the user's input
    """
    use_threads(threads)
    gc.collect()
    reset_peak(is_new_run=True)
    start, disabled = time.perf_counter(), logging.root.manager.disable
    logging.disable(logging.INFO)  # lines of several sections at once can be read by nobody
    logging.getLogger("kedro").setLevel(logging.CRITICAL)  # an error stands in the table
    try:
        with captured_warnings() as warnings:
            _set_up_worker(gpus)
            made = _make(job, sessions)
    except Exception as error:
        lasted: dict[str, Any] = {
            "seconds": time.perf_counter() - start,
            "peak_bytes": highest_bytes(),
            "warnings": warnings,
        }
        if (ours := InputError.within(error)) is not None:
            reason, _, next_step = str(ours).removeprefix("Found: ").partition(" Next step: ")
            return Outcome(State.FAILED, **lasted, reason=without_home(reason), next_step=without_home(next_step))
        reason = without_home(f"{type(error).__name__}: {first_line(error)}")
        text = without_home("".join(traceback.format_exception(error)))
        raise JobError(Outcome(State.FAILED, **lasted, reason=reason, next_step=FAULT, traceback=text)) from None
    finally:
        logging.disable(disabled)
    return Outcome(**made, seconds=time.perf_counter() - start, peak_bytes=highest_bytes(), warnings=warnings)


def _make(job: Job, sessions: Sessions) -> dict[str, Any]:
    from kedro.framework.project import configure_project

    configure_project("spamcaf")
    with sessions.opened(job.choices) as chain:
        results = set(job.wanted) or chain.pipeline.all_outputs()
        if job.is_shared:
            made_of = chain.pipeline.to_outputs(*results).all_outputs()
            results = set(shared_results(made_of, chain.catalog, sessions.project / "data"))
        chain.run(sorted(results))
        made: dict[str, Any] = {"state": State.DONE if chain.n_nodes else State.WAS_DONE}
        if not job.is_shared:
            made["scores"] = chain.catalog.load("hidden_scores")
        if job.wanted and not job.is_shared:
            made["genes"] = chain.catalog.load("gene_scores")
        if "report" in results:
            report: Any = chain.catalog.get("report")
            made["report"] = str(report.path)
    return made


def _set_up_worker(gpus: list[str]) -> None:
    """Show this process one GPU, by the number of its worker; raise InputError where it may get two runs at once."""
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads > 1:
        found = f"a worker of Dask with {worker.state.nthreads} threads, which takes as many runs at once."
        next_step = "Start workers with --nthreads 1, or with `cores` equal to `processes`; see docs/cohorts.md."
        raise InputError(found, "one run at a time in a process.", next_step)
    if gpus:
        os.environ[GPU_VARIABLE] = gpus[int(worker.name) % len(gpus)]

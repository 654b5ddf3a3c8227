"""A cohort from its plan to its table: runs on the workers as they become free, each reported when it ends."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.cohort.cluster import ClusterSettings, Workers, opened
from spamcaf.cohort.plan import Job, plan_jobs
from spamcaf.cohort.table import Result, line_of, render, tabulate
from spamcaf.cohort.tasks import JobError, Outcome, State, do_job
from spamcaf.hooks import check_settings
from spamcaf.locks import locked
from spamcaf.provenance import provenance_record
from spamcaf.sessions import Sessions

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

KILLS = 1  # a run during which its worker died is done again once
DEATHS = 9  # of workers, after which a run is given up even if none had begun it
Say = Callable[[str], None]


def run_cohort(context: KedroContext, options: dict[str, Any], say: Say) -> bool:
    """Make every run of a cohort, store table and report, and return whether all of them ended well.

    Parameters
    ----------
    context : of a session with the options of the command line
    options : fields of `ClusterSettings`; None where they are not given
    say : prints a line

    Raises
    ------
    InputError : where the plan or the cluster cannot be made, or another process makes the same cohort
    """
    loader: Any = context.config_loader
    settings, chosen = check_settings(loader["parameters"]), {**loader["globals"], **loader["parameters"]}
    cluster, jobs = ClusterSettings.read(loader, **options), plan_jobs(context)
    sessions, catalog = Sessions.of(context, chosen), context.catalog
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = settings.compute.threads or (int(asked) if asked.isdigit() else 0)
    n_runs = sum(not job.is_shared for job in jobs)
    with (
        locked(sessions.project / "data", ("cohort", sessions.run)),
        opened(cluster, n_runs, threads, settings.compute.device != "cpu") as workers,
    ):
        say(f"cohort of {n_runs} runs, {workers.n} at once with {workers.threads} threads each")
        results = work(jobs, sessions, workers, say)
    table = tabulate(results)
    catalog.save("cohort", table)
    rows = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    details = [{"traceback": r.outcome.traceback, "warnings": r.outcome.warnings} for r in results]
    record = {"runs": [row | detail for row, detail in zip(rows, details, strict=True)], **provenance_record()}
    catalog.save("cohort_record", record)
    page: Any = catalog.get("cohort_report")
    text, html = render(results, table, Path(page.path), settings.benchmark.n_bootstrap, settings.seed)
    page.save(html)
    say(f"{text}\n\nreport: {page.path}")
    return all(result.outcome.state is not State.FAILED for result in results)


def work(jobs: list[Job], sessions: Sessions, workers: Workers, say: Say) -> list[Result]:
    """Return how each run ended, in the order of `jobs`.

    A run during which its worker died is done again once. What several runs share is made before them; where that fails
    they fail.
    """
    from distributed import KilledWorker, as_completed

    waiting = list(jobs)
    running: dict[str, Job] = {}
    shared: dict[str, Outcome] = {}  # by section
    ended: dict[str, Outcome] = {}
    kills: Counter[str] = Counter()
    deaths: Counter[str] = Counter()  # also of workers that died before they began it
    futures = as_completed()

    def start() -> None:
        for job in list(waiting):
            failed = [shared[n] for n in job.needs if n in shared and shared[n].state is State.FAILED]
            if failed:
                waiting.remove(job)
                end(job, failed[0])
            elif len(running) < workers.n and all(name in shared for name in job.needs):
                waiting.remove(job)
                future = workers.submit(do_job, job, sessions)
                running[future.key] = job
                futures.add(future)

    def end(job: Job, outcome: Outcome) -> None:
        (shared if job.is_shared else ended)[job.section if job.is_shared else job.name] = outcome
        say(line_of(job, outcome))

    start()
    for future in futures:
        job, error = running.pop(future.key), future.exception()
        if isinstance(error, KilledWorker):
            deaths[job.name] += 1
            kills[job.name] += workers.has_begun(future)
        if isinstance(error, KilledWorker) and kills[job.name] <= KILLS and deaths[job.name] <= DEATHS:
            waiting.insert(0, job)
        else:
            end(job, outcome_of(future, deaths[job.name]))
        start()
    return [Result(job, ended[job.name]) for job in jobs if not job.is_shared]


def outcome_of(future: Any, n_deaths: int) -> Outcome:  # noqa: ANN401  a future of Dask
    """Return how a run ended, also where its workers died or its result could not be had."""
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        outcome: Outcome = future.result()
        return outcome
    if isinstance(error, JobError):
        return error.outcome
    if isinstance(error, KilledWorker):
        reason = f"its worker was killed {n_deaths} times ({error.last_worker.address})"
        next_step = "Too little memory is the usual reason: fewer --workers, or more --memory; then the same command."
        return Outcome(State.FAILED, reason=reason, next_step=next_step)
    reason = f"{type(error).__name__}: {error}"
    return Outcome(State.FAILED, reason=reason, next_step="Give the same command again.")

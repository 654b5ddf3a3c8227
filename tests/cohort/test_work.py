"""How runs end on workers that die, with runs that fail, and in which order: without a section."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spamcaf.cohort import cohort
from spamcaf.cohort.cluster import ClusterSettings, Workers, opened
from spamcaf.cohort.plan import Job
from spamcaf.cohort.table import Result
from spamcaf.cohort.tasks import JobError, Outcome, State
from spamcaf.errors import InputError


def act(job: Job, folder: Path, threads: int, gpus: list[str]) -> Outcome:
    """Do what the run's name says, and write down each try."""
    with (folder / job.section).open("a") as file:
        n_tries = file.tell()
        file.write("x")
    what = str(job.choices["do"])
    if what == "die" or (what == "die once" and n_tries == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail" or (what == "fail once" and n_tries == 0):
        raise JobError(Outcome(State.FAILED, reason="RuntimeError: no luck", traceback="Traceback"))
    if what == "refuse":
        return Outcome(State.FAILED, reason="no such file", next_step="Name another.")
    time.sleep(0.1)
    return Outcome(State.DONE, seconds=0.1)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with opened(ClusterSettings(workers=2, threads=1), n_runs=9, threads=0, uses_gpu=False) as workers:
        yield workers


def work(workers: Workers, folder: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> dict[str, Outcome]:
    monkeypatch.setattr(cohort, "do_job", act)
    sessions: Any = folder
    results: list[Result] = cohort.work(jobs, sessions, workers, lambda line: None)
    assert [result.job for result in results] == [job for job in jobs if not job.is_shared]
    return {result.job.section: result.outcome for result in results}


def tries(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def jobs_of(**actions: str) -> list[Job]:
    return [Job(name, "default", {"do": action}) for name, action in actions.items()]


def test_no_run_takes_another_with_it(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = {"K": "die", "A": "work", "L": "die once", "B": "work", "F": "fail", "G": "fail once", "R": "refuse"}
    ended = work(workers, tmp_path, jobs_of(**actions, C="work"), monkeypatch)
    failed = {name: outcome.reason for name, outcome in ended.items() if outcome.state is State.FAILED}
    assert failed.keys() == {"K", "F", "R"}
    assert "was killed" in failed["K"] and failed["F"] == "RuntimeError: no luck"
    assert "--memory" in ended["K"].next_step and ended["F"].traceback == "Traceback"
    found = tries(tmp_path)
    assert (found["K"], found["F"], found["R"]) == (2, 2, 1)
    # a result that lies on a worker which dies before it was fetched is made again
    assert found["L"] >= 2 and found["G"] >= 2 and min(found[name] for name in "ABC") >= 1


def test_what_runs_share_comes_first_and_its_failure_is_theirs(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [Job(name, "a", {"do": do}, is_shared=True) for name, do in (("S", "work"), ("T", "refuse"))]
    runs = [Job(f"{name}{i}", "a", {"do": "work"}, needs=(name,)) for name in "ST" for i in range(2)]
    ended = work(workers, tmp_path, [*shared, *runs], monkeypatch)
    assert {name: str(outcome.state) for name, outcome in ended.items()} == {
        **{"S0": "done", "S1": "done", "T0": "failed", "T1": "failed"}
    }
    assert ended["T1"].reason == "no such file" and tries(tmp_path) == {"S": 1, "T": 1, "S0": 1, "S1": 1}


def test_an_error_of_the_input_is_no_reason_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from spamcaf.cohort import tasks

    def refuse(*_: object) -> dict[str, Any]:
        raise ValueError("wrapped") from InputError("a.", "b.", "c.")

    monkeypatch.setattr(tasks, "_set_up_worker", lambda gpus: None)
    monkeypatch.setattr(tasks, "_make", refuse)
    sessions: Any = None
    outcome = tasks.do_job(Job("S", "a", {}), sessions, 1, [])
    assert (outcome.state, outcome.reason, outcome.next_step) == (State.FAILED, "a. Expected: b.", "c.")
    assert outcome.seconds is not None and (outcome.peak_bytes or 1) > 0

    def break_(*_: object) -> dict[str, Any]:
        raise RuntimeError("broken")

    monkeypatch.setattr(tasks, "_make", break_)
    with pytest.raises(JobError) as caught:
        tasks.do_job(Job("S", "a", {}), sessions, 1, [])
    assert caught.value.outcome.reason == "RuntimeError: broken" and "break_" in caught.value.outcome.traceback

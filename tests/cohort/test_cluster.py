"""The cluster of a cohort: sizes on this machine, and what cluster.yml names, without a cluster."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import yaml
from distributed import LocalCluster
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from spamcaf.cohort.cluster import ClusterSettings, local_sizes, make_cluster, opened
from spamcaf.cohort.plan import Job
from spamcaf.cohort.tasks import State, do_job
from spamcaf.errors import InputError
from spamcaf.sessions import Sessions

DOCS = (Path(__file__).parents[2] / "docs/cohorts.md").read_text()
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCS, flags=re.DOTALL)]
IN_PROCESS: dict[str, Any] = {"n_workers": 0, "processes": False, "dashboard_address": None}


class FakeCluster(LocalCluster):
    """Threads of this process in the place of a cluster; `asked` are the arguments."""

    asked: ClassVar[dict[str, Any]] = {}

    def __init__(self, **arguments: Any) -> None:
        type(self).asked = arguments
        super().__init__(**IN_PROCESS, resources=EXAMPLES[0].get("resources"))


def read(**entry: Any) -> ClusterSettings:
    return ClusterSettings.read({"cluster": entry})


def example(name: str) -> dict[str, Any]:
    return next(each for each in EXAMPLES if each.get("class", "").endswith(name))


@pytest.mark.parametrize("name", ["SLURMCluster", "KubeCluster"])
def test_the_examples_of_the_docs_make_a_cluster_of_that_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = example(name)
    fake = type(name, (FakeCluster,), {})
    module = entry["class"].rpartition(".")[0]
    for part in (module.partition(".")[0], module):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    setattr(sys.modules[module], name, fake)
    with opened(read(**entry), n_runs=3, threads=0, uses_gpu=True) as workers:
        assert fake.asked == entry["arguments"]
        assert workers.n == min(entry["workers"], 3) and workers.gpus == []
        workers.client.wait_for_workers(workers.n, timeout=120)
        future = workers.submit(lambda *given: given, "job", "sessions")
        assert future.result(timeout=120) == ("job", "sessions", entry["threads"], [])


class SlowCluster(FakeCluster):
    def close(self, *arguments: Any, **options: Any) -> None:
        super().close(*arguments, **options)
        raise TimeoutError


def test_a_cluster_that_is_slow_to_close_loses_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slow", ModuleType("slow"))
    monkeypatch.setattr(sys.modules["slow"], "SlowCluster", SlowCluster, raising=False)
    with opened(read(**{"class": "slow.SlowCluster"}), n_runs=1, threads=0, uses_gpu=False) as workers:
        assert workers.submit(lambda *given: 3).result(timeout=120) == 3
    with pytest.raises(RuntimeError, match="of the block"):
        with opened(read(**{"class": "slow.SlowCluster"}), n_runs=1, threads=0, uses_gpu=False):
            raise RuntimeError("of the block")


def test_a_class_whose_package_is_missing_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r"no dask_jobqueue\.SLURMCluster .*Next step: pip install dask-jobqueue\."):
        make_cluster("dask_jobqueue.SLURMCluster", {})
    with pytest.raises(InputError, match=r"LocalCluster that cannot be made .*Correct `arguments`"):
        make_cluster("distributed.LocalCluster", {"nothing": 3, **IN_PROCESS, "n_workers": 1})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"clas": "x.Y"}, "clas"),
        ({"class": "x.Y", "scheduler": "tcp://h:1"}, "not be given together"),
        ({"workers": 0}, "workers"),
    ],
)
def test_a_wrong_cluster_yml_ends_in_one_sentence(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"of cluster\.yml: .*{message}"):
        read(**entry)


def test_a_worker_that_would_take_two_runs_at_once_is_refused() -> None:
    job, sessions = Job("A", "default", {}), Sessions(Path("nowhere"), None, "conf", {}, "A", "default")
    with LocalCluster(**{**IN_PROCESS, "n_workers": 1, "threads_per_worker": 2, "protocol": "tcp://"}) as cluster:
        with opened(read(scheduler=cluster.scheduler_address), 1, 0, uses_gpu=False) as workers:
            outcome = workers.submit(do_job, job, sessions).result(timeout=120)
    assert outcome.state is State.FAILED
    assert "2 threads" in outcome.reason and "--nthreads 1" in outcome.next_step


def test_a_scheduler_that_is_there_takes_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    local: dict[str, Any] = {**IN_PROCESS, "n_workers": 2, "threads_per_worker": 1, "protocol": "tcp://"}
    with LocalCluster(**local) as cluster:
        with opened(read(scheduler=cluster.scheduler_address, threads=3), 9, 0, uses_gpu=False) as workers:
            assert workers.n == 2
            assert workers.submit(lambda threads, gpus: threads).result(timeout=120) == 3
    monkeypatch.setattr("spamcaf.cohort.cluster.CONNECT_S", 1)
    with pytest.raises(InputError, match=r"no scheduler at tcp://127\.0\.0\.1:9 .*Correct `scheduler`"):
        with opened(read(scheduler="tcp://127.0.0.1:9"), 1, 0, uses_gpu=False):
            pass


def test_the_environment_s_cluster_yml_is_read_and_options_replace_it(project: Path) -> None:
    (project / "conf/tiny/cluster.yml").write_text("workers: 3\nthreads: 2\n")
    try:
        bootstrap_project(project)
        with KedroSession.create(project, env="tiny") as session:
            loader = session.load_context().config_loader
        settings = ClusterSettings.read(loader, workers=5, threads=None, memory="1GB")
    finally:
        (project / "conf/tiny/cluster.yml").unlink()
    assert (settings.workers, settings.threads, settings.memory) == (5, 2, "1GB")
    with KedroSession.create(project, env="tiny") as session:
        assert ClusterSettings.read(session.load_context().config_loader) == ClusterSettings()


@pytest.mark.parametrize(
    ("settings", "n_runs", "threads", "n_gpus", "expected"),
    [
        ({}, 3, 0, 0, (3, 2)),
        ({}, 20, 0, 0, (8, 1)),
        ({}, 20, 4, 0, (2, 4)),
        ({}, 1, 0, 0, (1, 8)),
        ({"workers": 2}, 20, 0, 0, (2, 4)),
        ({"workers": 2, "threads": 3}, 20, 1, 0, (2, 3)),
        ({}, 20, 0, 2, (2, 4)),
        ({"workers": 4}, 20, 0, 2, (2, 4)),
        ({"workers": 9}, 20, 0, 0, (8, 1)),
    ],
)
def test_workers_and_threads_fill_the_cores(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], n_runs: int, threads: int, n_gpus: int, expected: tuple
) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    assert local_sizes(ClusterSettings(**settings), n_runs, threads, n_gpus) == expected


def environment_of_a_worker(threads: int, gpus: list[str]) -> dict[str, Any]:
    from distributed import get_worker

    from spamcaf.cohort.tasks import _set_up_worker

    _set_up_worker(gpus)
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    limit, heavy = get_worker().memory_manager.memory_limit, [n for n in ("torch", "numba") if n in sys.modules]
    return {**{name: os.environ.get(name) for name in names}, "limit": limit, "pid": os.getpid(), "heavy": heavy}


def test_a_local_worker_is_a_process_with_threads_memory_and_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spamcaf.cohort.cluster._gpus", lambda: ["4", "7"])
    before = dict(os.environ)
    with opened(ClusterSettings(threads=3, memory="1GB"), 5, 0, uses_gpu=True) as workers:
        assert workers.n == 2 and workers.resources == {"GPU": 1}
        futures = [workers.submit(environment_of_a_worker) for _ in range(2)]
        found = [future.result(timeout=60) for future in futures]
    assert {each["CUDA_VISIBLE_DEVICES"] for each in found} <= {"4", "7"}
    for each in found:
        assert each["OMP_NUM_THREADS"] == each["NUMBA_NUM_THREADS"] == "3"
        assert each["limit"] == 10**9 and each["pid"] != os.getpid() and each["heavy"] == []
    changed = {name for name in before if os.environ.get(name) != before[name]}
    assert changed == set()

"""The cluster of a cohort: workers on this machine, or what `conf/<env>/cluster.yml` names."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from kedro.config import MissingConfigException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from spamcaf.cohort.tasks import GPU_VARIABLE
from spamcaf.compute import NUMBA_VARIABLE, THREAD_VARIABLES
from spamcaf.datasets.stored import validated
from spamcaf.errors import InputError, first_line
from spamcaf.signals import held_back

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "distributed.LocalCluster"
GPU = "GPU"
CONNECT_S = 30
DASK = {
    "distributed.scheduler.allowed-failures": 0,  # whether a run is done again is decided here
    "distributed.worker.profile.enabled": False,  # samples of what a worker does, each 10 ms, which nobody looks at
}


class ClusterSettings(BaseModel):
    """`conf/<env>/cluster.yml`: a class of cluster with arguments, or a scheduler that runs; else this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str | None = Field(None, alias="class", description="class path, such as dask_jobqueue.SLURMCluster")
    arguments: dict[str, Any] = Field({}, description="of the class")
    scheduler: str | None = Field(None, description="address of a scheduler that runs already")
    workers: int | None = Field(None, ge=1, description="runs at once")
    threads: int | None = Field(None, ge=1, description="CPU threads of a run")
    memory: str | None = Field(None, description="limit of a worker on this machine, such as 8GB")
    resources: dict[str, float] = Field({}, description="what a run needs of a worker that states it, such as GPU: 1")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.kind and self.scheduler:
            raise ValueError("class and scheduler should not be given together")
        return self

    @classmethod
    def read(cls, loader: Any, **options: Any) -> Self:  # noqa: ANN401  Kedro's loader; options of the command line
        """Return those of an environment, with the options that are given in their place."""
        try:
            entry = dict(loader["cluster"])
        except MissingConfigException:
            entry = {}
        given = {name: value for name, value in options.items() if value is not None}
        return validated(cls, {**entry, **given}, "of cluster.yml")


@dataclass(frozen=True)
class Workers:
    """A client of a cluster: how many runs it takes at once, the threads, GPUs and resources of each."""

    client: Client
    n: int
    threads: int
    gpus: list[str]
    resources: Mapping[str, float]

    def submit(self, *call: Any) -> Any:  # noqa: ANN401  a function and its arguments; the future of its result
        """Start a call on a worker; where it raises an error it is tried once more."""
        key = f"run-{uuid4().hex}"
        arguments = (*call, self.threads, self.gpus)
        return self.client.submit(_begin, key, *arguments, key=key, retries=1, resources=dict(self.resources))

    def has_begun(self, future: Any) -> bool:  # noqa: ANN401  what `submit` gave
        """Tell whether a call began: a worker that dies ends also those that only wait behind the one it works on."""
        from distributed import Event

        return bool(Event(future.key, client=self.client).is_set())


def _begin(key: str, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401  of any call
    from distributed import Event

    Event(key).set()
    return function(*arguments)


@contextmanager
def opened(settings: ClusterSettings, n_runs: int, threads: int, uses_gpu: bool) -> Iterator[Workers]:
    """Start the cluster, or connect to it; what was started ends with the block.

    Parameters
    ----------
    settings
    n_runs : there are no more workers than these
    threads : of a run, where `settings` leave them open; 0: as many as this machine has for each worker
    uses_gpu : whether a run takes a GPU where there is one
    """
    import dask
    from distributed import Client

    for name in ("distributed", "distributed.client", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it stands in the table
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(DASK))
        gpus: list[str] = []
        if settings.scheduler:
            client = stack.enter_context(_connect(settings.scheduler))
            n, resources = settings.workers or len(client.scheduler_info(n_workers=-1)["workers"]), settings.resources
        elif settings.kind:
            n, resources = min(settings.workers or n_runs, n_runs), settings.resources
            cluster = stack.enter_context(_closing(make_cluster(settings.kind, settings.arguments)))
            cluster.scale(n)
            client = stack.enter_context(Client(cluster))
        else:
            gpus = _gpus() if uses_gpu else []
            n, threads = local_sizes(settings, n_runs, threads, len(gpus))
            resources = {GPU: 1.0} if gpus else {}
            stack.enter_context(_environment(threads))
            arguments = {"n_workers": n, "threads_per_worker": 1, "memory_limit": settings.memory or "auto"}
            quiet = {"silence_logs": logging.CRITICAL, "dashboard_address": "127.0.0.1:0"}
            made = make_cluster(LOCAL, {**arguments, **quiet, "resources": resources})
            cluster = stack.enter_context(_closing(made))
            client = stack.enter_context(Client(cluster))
        yield Workers(client, max(n, 1), settings.threads or threads or 1, gpus, resources)


def make_cluster(kind: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401  any class of cluster
    """Return a cluster of the class at the path `kind`; raise InputError where it cannot be had."""
    module, _, name = kind.rpartition(".")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        package = module.partition(".")[0].replace("_", "-")
        raise InputError(
            f"no {kind} ({first_line(error)}), the class of cluster.yml.",
            "the path of a class of cluster, whose package is installed.",
            f"pip install {package}." if package else "Correct `class` in cluster.yml.",
        ) from error
    try:
        with held_back():  # also the threads of Dask, which start workers in place of those that died
            return made(**arguments)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        found = f"a {name} that cannot be made ({type(error).__name__}: {first_line(error)})."
        raise InputError(found, "arguments that the class takes.", "Correct `arguments` in cluster.yml.") from error


@contextmanager
def _closing(cluster: Any) -> Iterator[Any]:  # noqa: ANN401  any class of cluster
    """Close the cluster behind the block; workers of a busy machine may take too long to end, which is no error."""
    try:
        yield cluster
    finally:
        with suppress(TimeoutError):
            cluster.close()


def local_sizes(settings: ClusterSettings, n_runs: int, threads: int, n_gpus: int) -> tuple[int, int]:
    """Return workers on this machine and threads of each: together its cores, as far as nothing else is asked for."""
    from dask.system import CPU_COUNT

    threads = settings.threads or threads
    n_free = n_gpus or max(CPU_COUNT // (threads or 1), 1)
    n = min(settings.workers or min(n_runs, n_free), n_gpus or CPU_COUNT)
    return n, threads or max(CPU_COUNT // n, 1)


def _connect(address: str) -> Client:
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        found = f"no scheduler at {address} ({first_line(error)})."
        raise InputError(found, "the address of a running one.", "Correct `scheduler` in cluster.yml.") from error


def _gpus() -> list[str]:
    """Return the devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if named := os.environ.get(GPU_VARIABLE):
        return named.split(",") if torch.cuda.is_available() else []
    return [str(i) for i in range(torch.cuda.device_count())]


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set the threads of the processes that are started inside the block: libraries read them when they are loaded."""
    variables = dict.fromkeys((*THREAD_VARIABLES, NUMBA_VARIABLE), str(threads)) | {"TQDM_DISABLE": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

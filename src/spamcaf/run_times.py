"""Where the seconds of a run went: a table at its end, and the same as a file beside the report."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kedro.framework.hooks import hook_impl

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline.node import Node

logger = logging.getLogger(__name__)

RUN_TIMES = "run_times"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KIB, MIB = 1 << 10, 1 << 20
N_SHOWN = 8  # nodes in the printed table; the file has all
_highest = 0  # peak before the last reset, bytes


@dataclass
class NodeTime:
    """Wall and processor seconds of a node with loading and saving, and the most memory of the process, MiB.

    Processor time counts all threads, and processes that have ended. Where the system cannot tell the peak of a node
    alone (Linux can), memory is the peak of the run so far.
    """

    node: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass
class _Run:
    begun: dict[str, tuple[float, float]]  # seconds and processor seconds at a node's begin, by its name
    rows: dict[str, NodeTime]


class NodeStarts:
    """Calls `_begin` where a node begins, at the latest when it is run."""

    @hook_impl
    def before_dataset_loaded(self, node: Node) -> None:
        """A node begins with its first input."""
        self._begin(node)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """A node without inputs begins here."""
        self._begin(node)

    def _begin(self, node: Node) -> None:
        raise NotImplementedError


class RunTimes(NodeStarts):
    """Measures each node of a run; a run inside another one has its own file, but no table."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    @hook_impl
    def before_pipeline_run(self) -> None:
        """Begin a table."""
        self._runs.append(_Run({}, {}))

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Count the computation; a node that yields its results computes while they are saved."""
        self._count(node)

    @hook_impl
    def after_dataset_saved(self, node: Node) -> None:
        """Count until the last result is saved."""
        self._count(node)

    @hook_impl
    def after_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Store the table, and log it unless the run was one inside another."""
        nodes = list(self._runs.pop().rows.values())
        if not nodes:  # of a runner whose nodes are in other processes
            return
        if RUN_TIMES in catalog:
            catalog.save(RUN_TIMES, {"nodes": [asdict(row) for row in nodes]})
        if not self._runs:
            logger.info("where the time went:\n%s", as_text(nodes))

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Forget the table of a run that failed."""
        self._runs = self._runs[:-1]

    def _begin(self, node: Node) -> None:
        if self._runs and node.name not in self._runs[-1].begun:
            reset_peak()
            self._runs[-1].begun[node.name] = time.perf_counter(), _cpu_seconds()

    def _count(self, node: Node) -> None:
        if self._runs and node.name in self._runs[-1].begun:
            wall, cpu = self._runs[-1].begun[node.name]
            row = NodeTime(node.short_name, time.perf_counter() - wall, _cpu_seconds() - cpu, peak_bytes() / MIB)
            self._runs[-1].rows[node.name] = row


def as_text(rows: list[NodeTime]) -> str:
    """Return the table of the longest nodes, and of all together: the sum of their times, the largest memory."""
    ordered = sorted(rows, key=lambda row: -row.seconds)[:N_SHOWN]
    total = NodeTime("all nodes", sum(r.seconds for r in rows), sum(r.cpu_seconds for r in rows), 0.0)
    total.peak_mib = max(r.peak_mib for r in rows)
    lines = [f"  {'node':<32} {'seconds':>9} {'CPU':>9} {'peak MiB':>9}"]
    lines += [f"  {r.node:<32} {r.seconds:9.1f} {r.cpu_seconds:9.1f} {r.peak_mib:9.0f}" for r in [*ordered, total]]
    return "\n".join(lines)


def reset_peak(*, is_new_run: bool = False) -> None:
    """Begin to measure the peak of memory anew, where the system can (Linux); `highest_bytes` is that of the run."""
    global _highest  # noqa: PLW0603  of the process, as the system's peak is
    _highest = 0 if is_new_run else highest_bytes()
    with suppress(OSError):
        CLEAR.write_text("5")


def highest_bytes() -> int:
    """Return the largest resident memory since the last reset for a new run."""
    return max(_highest, peak_bytes())


def peak_bytes() -> int:
    """Return the largest resident memory of this process, since the last reset where the system knows it."""
    if STATUS.is_file():
        return KIB * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KIB)


def _cpu_seconds() -> float:
    usage = os.times()
    return time.process_time() + usage.children_user + usage.children_system  # the last two in steps of 10 ms

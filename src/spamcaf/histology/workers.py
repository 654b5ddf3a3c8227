"""Sharing the sites of a slide among processes, one per device, with progress."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.dense import DenseEmbedder, DenseEmbeddingJob, embed_densely
from spamcaf.histology.embedding import Embedder, EmbeddingJob, embed_blocks
from spamcaf.histology.features import Features
from spamcaf.progress import Progress

if TYPE_CHECKING:
    import torch

    from spamcaf.histology.backbone import Backbone

logger = logging.getLogger(__name__)

POLL_S = 1.0
MAX_THREADS = 8
"""Threads that read for one device; more only wait for each other."""
CORES_PER_READER = 4
"""On a CPU network and reading share the cores. On two of them a thread that reads ahead costs more than it saves:
ViT-S ran at .89 of its own rate with one, at .92 without (median of 32 blocks in turns, tiles of 448 px)."""


@dataclass(frozen=True)
class Workers:
    """Where and how to compute: one process per device, tiles per pass, and threads that read ahead for each.

    `is_compiled`: the network goes through torch.compile first.
    """

    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    batch: int
    threads: int
    is_compiled: bool = False

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, batch: int, *, is_compiled: bool = False) -> Workers:
        """Return all visible GPUs, if `device` is one, with threads that read; else the CPU."""
        import torch

        if device.type != "cuda":
            threads = min(torch.get_num_threads() // CORES_PER_READER, MAX_THREADS)
            return cls((device,), dtype, batch, threads, is_compiled)
        devices = tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
        threads = max(min((os.cpu_count() or 1) // len(devices), MAX_THREADS), 1)
        return cls(devices, dtype, batch, threads, is_compiled)


def embed_sites(job: EmbeddingJob, backbone: Backbone, workers: Workers, done: set[int]) -> Iterator[Features]:
    """Yield the features of a task in blocks, but for those that start at one of `done`.

    With one device blocks come in order. Where nothing is missing, one block without sites tells a store which key is
    in use.
    """
    missing = [start for start in job.starts() if start not in done]
    if not missing or not job.ids:
        yield _without_sites(job, backbone.width)
        return
    n_missing = sum(len(job.rows(start)) for start in missing)
    with Progress(len(job.ids), "sites", job.slide.name, start=len(job.ids) - n_missing) as progress:
        for block in _blocks(job, backbone, workers, missing):
            yield block
            progress.advance(len(block.ids))


def _blocks(job: EmbeddingJob, backbone: Backbone, workers: Workers, starts: list[int]) -> Iterator[Features]:
    n = min(len(workers.devices), len(starts)) if job.slide.is_portable else 1
    logger.info("%d blocks on %s", len(starts), ", ".join(map(str, workers.devices[:n])))
    if n > 1:
        return _shared(job, backbone, workers, [part.tolist() for part in np.array_split(np.array(starts), n)])
    return _computed(job, backbone, workers, 0, starts)


def _computed(job: EmbeddingJob, backbone: Backbone, workers: Workers, i: int, starts: list[int]) -> Iterator[Features]:
    """Return the blocks at `starts` as device `i` computes them, densely where the task asks for it."""
    how = (backbone, workers.devices[i], workers.dtype, workers.batch)
    if isinstance(job, DenseEmbeddingJob):
        dense = DenseEmbedder(*how, is_compiled=workers.is_compiled)
        return embed_densely(job, dense, starts, workers.threads)
    return embed_blocks(job, Embedder(*how, is_compiled=workers.is_compiled), starts, workers.threads)


def _without_sites(job: EmbeddingJob, width: int) -> Features:
    windows, whole = np.empty((0, 9, width), np.float32), np.empty((0, width), np.float32)
    n_padded = np.empty(0, np.int64)
    return Features((), windows, n_padded, job.key, len(job.ids), 0, whole if job.with_whole else None)


def _shared(job: EmbeddingJob, backbone: Backbone, workers: Workers, parts: list[list[int]]) -> Iterator[Features]:
    """Yield the blocks of all parts as they come; a worker's error is raised here."""
    import torch

    # spawned: CUDA does not survive a fork. Weights as bytes: torch's shared memory is 64 MB in many containers
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue(2 * len(parts))
    weights = pickle.dumps(backbone)
    cpu_threads = max(torch.get_num_threads() // len(parts), 1)
    processes = [
        context.Process(target=_work, args=(job, weights, workers, i, cpu_threads, part, results), daemon=True)
        for i, part in enumerate(parts)
    ]
    try:
        for process in processes:
            process.start()
        yield from _received(results, processes)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _received(results: Any, processes: Sequence[Any]) -> Iterator[Features]:  # noqa: ANN401  multiprocessing's own
    n_running = len(processes)
    while n_running:
        # asked before the queue: what a worker sent before it ended is there by then
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise _ended_early(codes)
        try:
            result = results.get(timeout=POLL_S)
        except queue.Empty:
            if None not in codes:
                raise _ended_early(codes) from None
            continue
        if isinstance(result, Exception):
            raise result
        if result is None:
            n_running -= 1
        else:
            yield result


def _ended_early(codes: Sequence[int | None]) -> InputError:
    return InputError(
        f"a process that ended before its work was done (exit codes {', '.join(map(str, codes))}).",
        "all of them to finish; memory may have run out.",
        "Run the same command again: it goes on where it stopped. A smaller tiles.batch takes less memory.",
    )


def _work(
    job: EmbeddingJob,
    weights: bytes,
    workers: Workers,
    i: int,
    cpu_threads: int,
    starts: list[int],
    results: Any,  # noqa: ANN401  multiprocessing's own
) -> None:
    """Compute one part in a process of its own."""
    import torch

    torch.set_num_threads(cpu_threads)
    Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        backbone = pickle.loads(weights)  # noqa: S301  the parent's own object
        for block in _computed(job, backbone, workers, i, starts):
            results.put(block)
        results.put(None)
    except Exception as error:  # whatever it is, the parent raises it
        results.put(_sendable(error))


def _end_with_the_parent() -> None:
    """End at once when the parent was killed: handing over what nobody takes would wait, and hold a GPU, for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """Return the error, or its text where it does not survive the way."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]  # noqa: S301
    except Exception:  # pickle raises errors of many types
        return RuntimeError(f"{type(error).__name__}: {error}")

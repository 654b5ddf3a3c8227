"""Features of the sites of a slide, computed by one process per device."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from threading import Thread
from typing import Any

import numpy as np
import torch

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.dense import DenseEmbedder, SlideMapJob, embed_map
from spamcaf.histology.embedding import Embedder, EmbeddingJob, embed_blocks
from spamcaf.histology.features import Features
from spamcaf.progress import Progress
from spamcaf.signals import held_back

logger = logging.getLogger(__name__)

POLL_S = 1.0
MAX_THREADS = 8
"""Threads that read for one device; more only wait for each other."""
CORES_PER_READER = 4
"""On a CPU network and reading share the cores. On two of them a thread that reads ahead costs more than it saves:
ViT-S ran at .89 of its own rate with one, at .92 without (median of 32 blocks in turns, tiles of 448 px)."""


@dataclass(frozen=True)
class Workers:
    """Devices with a process each, precision, tiles per forward pass, and threads that read ahead for each device."""

    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    batch: int
    threads: int
    is_compiled: bool = False  # by torch.compile

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, batch: int, *, is_compiled: bool = False) -> Workers:
        """Return all visible GPUs, if `device` is one, with threads that read; else the CPU."""
        devices: tuple[torch.device, ...] = (device,)
        threads = torch.get_num_threads() // CORES_PER_READER
        if device.type == "cuda":
            devices = tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
            threads = max((os.cpu_count() or 1) // len(devices), 1)
        return cls(devices, dtype, batch, min(threads, MAX_THREADS), is_compiled)


def embed_sites(job: EmbeddingJob, backbone: Backbone, workers: Workers, done: set[int]) -> Iterator[Features]:
    """Compute the features of a job in blocks, and log the progress.

    Parameters
    ----------
    job
        Sites, and how their features are computed.
    backbone
        The feature extractor.
    workers
        Devices and threads; with one device blocks come in order.
    done
        Starts of blocks that are stored already and are left out.

    Yields
    ------
    Features
        One block. Where nothing is missing, a block without sites tells a store which key is in use.

    Raises
    ------
    InputError
        Where a process ended before its work was done, and whatever error a process met.
    """
    missing = [start for start in job.starts() if start not in done]
    if not missing or not job.ids:
        yield job.mark(backbone.width, backbone.maps)
        return
    n = min(len(workers.devices), len(missing)) if job.slide.is_portable else 1
    logger.info("%d blocks on %s", len(missing), ", ".join(map(str, workers.devices[:n])))
    parts = [part.tolist() for part in np.array_split(np.array(missing), n)]
    blocks = _shared(job, backbone, workers, parts) if n > 1 else _computed(job, backbone, workers, 0, missing)
    n_missing = sum(len(job.rows(start)) for start in missing)
    with Progress(len(job.ids), job.unit, job.slide.name, start=len(job.ids) - n_missing) as progress:
        for block in blocks:
            yield block
            progress.advance(len(block.ids))


def _computed(job: EmbeddingJob, backbone: Backbone, workers: Workers, i: int, starts: list[int]) -> Iterator[Features]:
    """Return the blocks at `starts` as device `i` computes them."""
    how = (backbone, workers.devices[i], workers.dtype, workers.batch)
    if isinstance(job, SlideMapJob):
        return embed_map(job, DenseEmbedder(*how, is_compiled=workers.is_compiled), starts, workers.threads)
    return embed_blocks(job, Embedder(*how, is_compiled=workers.is_compiled), starts, workers.threads)


def _shared(job: EmbeddingJob, backbone: Backbone, workers: Workers, parts: list[list[int]]) -> Iterator[Features]:
    """Yield the blocks of all parts as they come; a worker's error is raised here."""
    # spawned: CUDA does not survive a fork. Weights as bytes: torch's shared memory is 64 MB in many containers
    context = multiprocessing.get_context("spawn")
    results: Queue[Any] = context.Queue(2 * len(parts))
    weights = pickle.dumps(backbone)
    cpu_threads = max(torch.get_num_threads() // len(parts), 1)
    processes = [
        context.Process(target=_work, args=(job, weights, workers, i, cpu_threads, part, results), daemon=True)
        for i, part in enumerate(parts)
    ]
    try:
        for process in processes:
            with held_back():
                process.start()
        yield from _received(results, processes)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def _received(results: Queue[Any], processes: Sequence[BaseProcess]) -> Iterator[Features]:
    n_running = len(processes)
    while n_running:
        # read before the queue: what a worker sent before it ended is there by then
        codes = [process.exitcode for process in processes]
        if any(codes) or (None not in codes and results.empty()):
            raise InputError(
                f"a process that ended before its work was done (exit codes {', '.join(map(str, codes))}).",
                "all of them to finish; memory may have run out.",
                "Run the same command again: it goes on where it stopped. A smaller tiles.batch takes less memory.",
            )
        try:
            result = results.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if isinstance(result, Exception):
            raise result
        if result is None:
            n_running -= 1
        else:
            yield result


def _work(
    job: EmbeddingJob,
    weights: bytes,
    workers: Workers,
    i: int,
    cpu_threads: int,
    starts: list[int],
    results: Queue[Any],
) -> None:
    """Compute one part in a process of its own."""
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
    """End at once when the parent was killed: a full queue that nobody reads would wait, and hold a GPU, for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """Return the error, or its text where it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # pickle raises errors of many types
        return RuntimeError(f"{type(error).__name__}: {error}")

"""Tiles per second: the whole of the embedding beside the bare network, and the compiled network beside itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _networks import load_backbone, vit
from _slide import lattice, side_for, task_of, write_slide
from torch import Tensor

from spamcaf.compute import choose_precision
from spamcaf.datasets.features import FeaturesDataset
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.embedding import Embedder, EmbeddingJob, embed_blocks
from spamcaf.histology.tiles import distinct, read_tiles
from spamcaf.histology.workers import Workers
from spamcaf.parameters import ComputeSettings, TileSettings
from spamcaf.slides.open import open_slide

SITES_PER_TURN, SITES_PER_GPU_TURN = 8, 128
COMPILED_TURNS = 8


def rows_of_throughput(folder: Path, turns: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of speed, on the CPU and, where there is one, on a GPU."""
    cpu = torch.device("cpu")
    for name, backbone in (("ViT-S/16", vit("vit_small_patch16_224")), ("EfficientNet-lite0", load_backbone())):
        for mpp, how in ((0.5, "as they are"), (0.25, "448 px shrunk to 224")):
            rate, ratio = throughput(backbone, folder, mpp, turns, cpu)
            what = f"pipeline / bare network, {name}, CPU, {choose_precision(ComputeSettings(), cpu)}, tiles {how}"
            yield what.replace("torch.", ""), f"{ratio}; bare: {rate} tiles/s", ">= 0.90 with ViT-S"
    if torch.cuda.is_available():
        yield row_of_gpu_throughput(folder, turns)


def row_of_gpu_throughput(folder: Path, turns: int) -> tuple[str, str, str]:
    """Return the throughput of a ViT-L on a GPU beside the bare network, and the most GPU memory that tensors took."""
    torch.cuda.reset_peak_memory_stats()
    rate, ratio = throughput(vit("vit_large_patch16_224"), folder, 0.25, turns, torch.device("cuda"))
    peak = torch.cuda.max_memory_allocated() / (1 << 20)
    seen = f"{ratio}; bare: {rate} tiles/s; peak GPU memory {peak:.0f} MB"
    return "pipeline / bare network, ViT-L/16, CUDA, bf16", seen, ">= 0.85"


def rows_of_compiling(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what torch.compile does, on the CPU and, where there is one, on a GPU."""
    yield row_of_compiling(path, torch.device("cpu"), vit("vit_small_patch16_224"))
    yield row_of_compiling(path, torch.device("cpu"), load_backbone())
    if torch.cuda.is_available():
        yield row_of_compiling(path, torch.device("cuda"), vit("vit_large_patch16_224"))


def throughput(backbone: Backbone, folder: Path, mpp: float, turns: int, device: torch.device) -> tuple[str, str]:
    """Return tiles per second of the bare network, and pipeline over bare: over all turns, and the turns' range."""
    dtype = choose_precision(ComputeSettings(), device)
    workers = replace(Workers.of(device, dtype, TileSettings().batch), devices=(device,))
    n_sites = SITES_PER_GPU_TURN if device.type == "cuda" else SITES_PER_TURN
    xy_px, path = lattice(turns * n_sites, 1, mpp), folder / "sites.tif"
    write_slide(path, side_for(xy_px, mpp))
    job = task_of(path, xy_px, mpp, backbone, n_sites)
    embedder = Embedder(backbone, device, dtype, workers.batch)
    own = replace(job, slide=open_slide(path))  # nothing decoded yet
    alone, piped, rates = [], [], []
    with tempfile.TemporaryDirectory() as stored:
        store = FeaturesDataset(filepath=stored)
        bare(embedder, ready_batches(job, 0, embedder), dtype)  # warms up
        for start in job.starts():
            batches = ready_batches(job, start, embedder)
            before = bare(embedder, batches, dtype)
            begin = time.perf_counter()
            for block in embed_blocks(own, embedder, [start], workers.threads):
                assert not block.n_px_padded.any(), "glass beyond the slide costs nothing to read"
                store.save(block)
            piped.append(time.perf_counter() - begin)
            after = bare(embedder, batches, dtype)
            alone.append((before + after) / 2)
            rates.append(sum(map(len, batches)) / min(before, after))
    ratios = np.divide(alone, piped)
    return f"{median(rates):.0f}", f"{sum(alone) / sum(piped):.2f} ({ratios.min():.2f}-{ratios.max():.2f})"


def row_of_compiling(path: Path, device: torch.device, backbone: Backbone) -> tuple[str, str, str]:
    """Return how much faster the compiled network alone is than as it is, in turns, and how long compiling takes."""
    dtype = choose_precision(ComputeSettings(), device)
    batch = Workers.of(device, dtype, TileSettings().batch).batch
    eager, compiled = (Embedder(backbone, device, dtype, batch, is_compiled=c) for c in (False, True))
    job = task_of(path, lattice(4, 1, 0.5), 0.5, backbone)
    batches = ready_batches(job, 0, eager)[:2]  # of one shape
    bare(eager, batches, dtype)
    took = bare(compiled, batches, dtype)
    pairs = [(bare(eager, batches, dtype), bare(compiled, batches, dtype)) for _ in range(COMPILED_TURNS)]
    ratios = [one / other for one, other in pairs]
    what = f"compute.compile / as it is, network alone, {backbone.identity.name}, {device.type}"
    return what, f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}), the first pass took {took:.0f} s", ""


def ready_batches(job: EmbeddingJob, start: int, embedder: Embedder) -> list[Tensor]:
    """Return the batches of a block as they go into the network, on its device."""
    places, _ = distinct(job.boxes(start).reshape(-1, 4))
    cut = (places[i : i + embedder.batch] for i in range(0, len(places), embedder.batch))
    ready = (read_tiles(job.slide, batch, None).tiles for batch in cut)
    return [torch.from_numpy(tiles).to(embedder.device).permute(0, 3, 1, 2).float() / 127.5 - 1 for tiles in ready]


def bare(embedder: Embedder, batches: list[Tensor], dtype: torch.dtype) -> float:
    """Return the seconds that the network alone takes for normalised batches on its device."""
    network, device = embedder._network, embedder.device
    start = time.perf_counter()
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for batch in batches:
            network(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start

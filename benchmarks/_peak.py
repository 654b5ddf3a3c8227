"""Peak memory of embedding a large slide, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _networks import HALF, Shrunk
from _slide import LARGE_PX, dense_tasks, lattice, task_of, write_slide

from spamcaf.datasets.features import FeaturesDataset
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.dense import pool_windows
from spamcaf.histology.workers import Workers, embed_sites
from spamcaf.run_times import peak_bytes

MB = 1 << 20


@dataclass(frozen=True)
class Job:
    """A k x k grid of a network's features; `side` is that of its map."""

    k: int
    width: int = 1024
    side: int = 7
    is_dense: bool = False


JOBS = (Job(2), Job(4), Job(4, is_dense=True), Job(4, 1536, 16, is_dense=True))


def rows_of_memory(folder: Path, n_spots: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of memory, each from a process of its own."""
    path = folder / "large.tif"
    write_slide(path, LARGE_PX)
    for job in JOBS:
        command = [sys.executable, __file__, str(path), str(n_spots), json.dumps(asdict(job))]
        seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        how = f"dense, {job.side} x {job.side} map" if job.is_dense else "exact"
        grid = f"{n_spots} spots, {job.k**2} x grid, {job.width} features, {how}"
        what = f"peak memory, {LARGE_PX} x {LARGE_PX} px, {grid}"
        figures = f"{seen['peak']:.0f} MB, {seen['imports']:.0f} of it before the first tile"
        sizes = f"{seen['sites']:.0f} sites, {seen['stored']:.0f} MB stored in {seen['seconds']:.0f} s"
        yield what, f"{figures} ({sizes})", "< 1500 MB"


def reference_spots(path: Path, n_spots: int, job: Job) -> dict[str, float]:
    """Embed spots and grid into a store, load it and read it in parts; return what it took, in MB and seconds."""
    network = Shrunk(job.width, job.side).eval().requires_grad_(False)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    backbone = Backbone(network, *HALF, BackboneIdentity("shrunk", "random", "0" * 64, "b", job.width, "none"))
    started, begin = peak_bytes(), time.perf_counter()
    xy = lattice(n_spots, job.k, 0.5)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = FeaturesDataset(filepath=f"{folder}/sites")
        workers = Workers.of(torch.device("cpu"), torch.float32, 64)
        if job.is_dense:
            task, sites = dense_tasks(path, xy, 0.5, backbone, job.side)
            slide_map = FeaturesDataset(filepath=f"{folder}/map")
            for block in embed_sites(task, backbone, workers, set()):
                slide_map.save(block)
            blocks = pool_windows(slide_map.load(), sites, set())
        else:
            blocks = embed_sites(task_of(path, xy, 0.5, backbone), backbone, workers, set())
        for block in blocks:
            store.save(block)
        seconds = time.perf_counter() - begin
        features = store.load()
        total = sum(float(features.windows[i : i + 512].mean()) for i in range(0, len(features.ids), 512))
        stored = sum(file.stat().st_size for file in Path(folder).rglob("c.*"))
    assert np.isfinite(total)
    peak = peak_bytes() - weights
    return {"sites": len(xy), "peak": peak / MB, "imports": started / MB, "stored": stored / MB, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(reference_spots(Path(sys.argv[1]), int(sys.argv[2]), Job(**json.loads(sys.argv[3])))))

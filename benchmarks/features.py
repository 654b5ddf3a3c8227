"""Feature extraction: throughput against the bare network, peak memory, and differences. Prints a Markdown table.

python benchmarks/features.py [--quick]

Throughput: blocks through reading, network and store, and the same batches, ready in memory, through the network alone,
in turns. Memory: a process of its own for each row, minus the weights of the network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spamcaf.compute import choose_precision
from spamcaf.datasets.backbone import BackboneDataset
from spamcaf.datasets.features import FeaturesDataset
from spamcaf.datasets.slides.open import open_slide
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.embedding import Embedder, Task, embed_blocks
from spamcaf.histology.features import FeatureKey, join_blocks
from spamcaf.histology.reading import distinct, prepare
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.workers import Workers, embed_sites
from spamcaf.parameters import ComputeSettings, TileSettings

ROOT = Path(__file__).parents[1]
CHUNK_PX = 512
SITES_PER_TURN = 8
TURNS, FEW_TURNS = 32, 4
PITCH_UM = 100.0
N_SPOTS = 4992
LARGE_PX, SMALL_PX = 20_000, 5_000
MB = 1 << 20
HALF = ((0.5,) * 3, (0.5,) * 3)


class Shrunk(nn.Module):
    """A network that costs next to nothing and gives as many features as ViT-L: memory alone is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3 * 49, 1024)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (tile, 1024) for (tile, 3, 224, 224)."""
        return self.line(nn.functional.avg_pool2d(pixels, 32).flatten(1))


def vit(name: str) -> Backbone:
    """Return a ViT of timm with random weights."""
    import timm

    torch.manual_seed(0)
    network: Any = timm.create_model(name, pretrained=False, num_classes=0).eval().requires_grad_(False)
    return Backbone(network, *HALF, BackboneIdentity(name, "random", "0" * 64, "b", network.num_features, "none"))


def lite0() -> Backbone:
    """Return the packaged backbone."""
    import yaml

    backbones = yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())["backbones"]
    return BackboneDataset(name="efficientnet_lite0", backbones=backbones).load()


def write_slide(path: Path, side: int) -> None:
    """Write a tiled TIFF of `side` x `side` px: coloured noise, smooth over a few pixels, in eight kinds of tile."""
    import imagecodecs
    import tifffile
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)

    def encoded() -> Iterator[bytes]:
        for _ in range(8):
            noise = gaussian_filter(rng.normal(size=(CHUNK_PX, CHUNK_PX, 3)), (3, 3, 0)) * 300 + (200, 120, 180)
            yield bytes(imagecodecs.zlib_encode(np.clip(noise, 0, 255).astype(np.uint8).tobytes(), level=1))

    kinds = list(encoded())
    across = -(-side // CHUNK_PX)
    chosen = (kinds[i] for i in rng.integers(0, len(kinds), across**2))
    how: dict[str, Any] = {"photometric": "rgb", "tile": (CHUNK_PX, CHUNK_PX), "compression": "zlib"}
    tifffile.imwrite(path, chosen, shape=(side, side, 3), dtype=np.uint8, **how)


def lattice(n_spots: int, k: int, mpp: float, side: int) -> np.ndarray:
    """Return (site, 2) px: a hexagonal lattice of `n_spots`, each with its k x k sites, spots in random order."""
    across = int(np.ceil(np.sqrt(n_spots * 0.866)))
    index = np.arange(n_spots)
    row, column = index // across, index % across
    spots = np.column_stack([column + 0.5 * (row % 2), row * 0.866]) * PITCH_UM / mpp
    spots = np.random.default_rng(0).permutation(spots + (side - spots.max(axis=0)) / 2)
    sub = np.array([(i + 0.5 * j, 0.866 * j) for j in range(k) for i in range(k)]) / k * PITCH_UM / mpp
    return (spots[:, None] + sub).reshape(-1, 2)


def task_of(path: Path, xy_px: np.ndarray, mpp: float, backbone: Backbone, block: int | None = None) -> Task:
    """Return the task of all tiles around `xy_px`."""
    slide, geometry = open_slide(path), WindowGeometry.of(TileSettings(), mpp)
    ids = [str(i) for i in range(len(xy_px))]
    key = FeatureKey.of(slide.fingerprint, backbone.identity, geometry.view(), geometry.window_px, ids, xy_px)
    return Task(slide, geometry, ids, xy_px, replace(key, block=block) if block else key)


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


def ready_batches(task: Task, start: int, embedder: Embedder) -> list[Tensor]:
    """Return the batches of a block as they go into the network, on its device."""
    places, _ = distinct(task.places(start).reshape(-1, 3))
    cut = (places[i : i + embedder.batch] for i in range(0, len(places), embedder.batch))
    ready = (prepare(task.slide, batch, None).tiles for batch in cut)
    return [torch.from_numpy(tiles).to(embedder.device).permute(0, 3, 1, 2).float() / 127.5 - 1 for tiles in ready]


def throughput(backbone: Backbone, path: Path, mpp: float, turns: int, device: torch.device) -> tuple[str, str]:
    """Return tiles per second of the bare network, and pipeline over bare: over all turns, and the turns' range."""
    dtype = choose_precision(ComputeSettings(), device)
    workers = replace(Workers.of(device, dtype, TileSettings().batch), devices=(device,))
    n_sites = SITES_PER_TURN * (16 if device.type == "cuda" else 1)
    task = task_of(path, lattice(turns * n_sites, 1, mpp, SMALL_PX), mpp, backbone, n_sites)
    embedder = Embedder(backbone, device, dtype, workers.batch)
    own = replace(task, slide=open_slide(path))  # nothing decoded yet
    alone, piped, rates = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = FeaturesDataset(filepath=folder)
        bare(embedder, ready_batches(task, 0, embedder), dtype)  # warms up
        for start in task.starts():
            batches = ready_batches(task, start, embedder)
            before = bare(embedder, batches, dtype)
            begin = time.perf_counter()
            for block in embed_blocks(own, embedder, [start], workers.threads):
                store.save(block)
            piped.append(time.perf_counter() - begin)
            after = bare(embedder, batches, dtype)
            alone.append((before + after) / 2)
            rates.append(sum(map(len, batches)) / min(before, after))
    ratios = np.divide(alone, piped)
    return f"{median(rates):.0f}", f"{sum(alone) / sum(piped):.2f} ({ratios.min():.2f}-{ratios.max():.2f})"


def differences(backbone: Backbone, path: Path) -> tuple[float, float]:
    """Return the largest difference of float32 features to one tile at a time, and the least cosine of bf16 ones."""
    cpu = torch.device("cpu")
    task = task_of(path, lattice(4, 1, 0.35, SMALL_PX), 0.35, backbone)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        embedder = Embedder(backbone, cpu, dtype, 18)
        features = join_blocks(list(embed_blocks(task, embedder, task.starts(), 1)))
        found[dtype] = features.windows[features.rows(list(task.ids))]
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    expected = np.empty_like(found[torch.float32])
    with torch.inference_mode():
        for site, places in enumerate(task.geometry.tiles(task.xy_px)):
            for i, place in enumerate(places):
                tile = torch.from_numpy(prepare(task.slide, place[None], None).tiles[0]).permute(2, 0, 1).float()
                expected[site, i] = backbone.network(((tile / 255 - mean) / std)[None])[0].numpy()
    rough = found[torch.bfloat16]
    cosine = (rough * expected).sum(-1) / np.linalg.norm(rough, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(abs(found[torch.float32] - expected).max()), float(cosine.min())


def peak_bytes() -> int:
    """Return the largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory(path: Path, k: int, n_spots: int) -> dict[str, float]:
    """Embed spots and grid into a store, load it and read it in parts; return what it took, in MB and seconds."""
    network = Shrunk().eval().requires_grad_(False)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    backbone = Backbone(network, *HALF, BackboneIdentity("shrunk", "random", "0" * 64, "b", 1024, "none"))
    started, begin = peak_bytes(), time.perf_counter()
    xy = lattice(n_spots, k, 0.5, LARGE_PX)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = FeaturesDataset(filepath=folder)
        workers = Workers.of(torch.device("cpu"), torch.float32, 64)
        for block in embed_sites(task_of(path, xy, 0.5, backbone), backbone, workers, set()):
            store.save(block)
        seconds = time.perf_counter() - begin
        features = store.load()
        total = sum(float(features.windows[i : i + 512].mean()) for i in range(0, len(features.ids), 512))
        stored = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
    assert np.isfinite(total)
    peak = peak_bytes() - weights
    return {"sites": len(xy), "peak": peak / MB, "imports": started / MB, "stored": stored / MB, "seconds": seconds}


def rows_of_throughput(path: Path, turns: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of speed, on the CPU and, where there is one, on a GPU."""
    cpu = torch.device("cpu")
    for name, backbone in (("ViT-S/16", vit("vit_small_patch16_224")), ("EfficientNet-lite0", lite0())):
        for mpp, how in ((0.5, "as they are"), (0.25, "448 px shrunk to 224")):
            rate, ratio = throughput(backbone, path, mpp, turns, cpu)
            what = f"pipeline / bare network, {name}, CPU, {choose_precision(ComputeSettings(), cpu)}, tiles {how}"
            yield what.replace("torch.", ""), f"{ratio}; bare: {rate} tiles/s", ">= 0.90 with ViT-S"
    if torch.cuda.is_available():
        rate, ratio = throughput(vit("vit_large_patch16_224"), path, 0.25, turns, torch.device("cuda"))
        yield "pipeline / bare network, ViT-L/16, CUDA, bf16", f"{ratio}; bare: {rate} tiles/s", ">= 0.85"


def rows_of_differences(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of agreement with one tile at a time."""
    for name, backbone in (("ViT-S/16", vit("vit_small_patch16_224")), ("EfficientNet-lite0", lite0())):
        largest, cosine = differences(backbone, path)
        yield f"largest difference to one tile at a time, float32, {name}", f"{largest:.1e}", "< 1e-4"
        yield f"least cosine to it, bf16, {name}", f"{cosine:.5f}", "> 0.999"


def rows_of_memory(folder: Path, n_spots: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of memory, each from a process of its own."""
    path = folder / "large.tif"
    write_slide(path, LARGE_PX)
    for k in (2, 4):
        command = [sys.executable, __file__, "--memory", str(path), str(k), str(n_spots)]
        seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        what = f"peak memory, {LARGE_PX} x {LARGE_PX} px, {n_spots} spots, {k * k} x grid, 1024 features"
        figures = f"{seen['peak']:.0f} MB, {seen['imports']:.0f} of it before the first tile"
        sizes = f"{seen['sites']:.0f} sites, {seen['stored']:.0f} MB stored in {seen['seconds']:.0f} s"
        yield what, f"{figures} ({sizes})", "< 1500 MB"


def row_of_shared_tiles(path: Path) -> tuple[str, str, str]:
    """Return how many tiles are computed on a square lattice whose pitch is a tile."""
    x, y = np.meshgrid(np.arange(16), np.arange(16))
    xy = np.column_stack([x.ravel(), y.ravel()]) * 224.0 + 600
    task = task_of(path, xy, 0.5, vit("test_vit"))
    once = sum(len(distinct(task.places(start).reshape(-1, 3))[0]) for start in task.starts())
    return "tiles computed / tiles seen, 16 x 16 sites one tile apart", f"{once / (len(xy) * 9):.2f}", ""


def machine() -> str:
    """Name the machine in general terms."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    cpu = models[0] if models else platform.machine()
    return f"{os.cpu_count()} logical cores ({cpu}), {gpu}, torch {torch.__version__}, load at the start {load}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns and a tenth of the spots")
    parser.add_argument("--only", choices=("speed", "differences", "memory"), help="one part alone")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory:
        path, k, n_spots = chosen.memory
        print(json.dumps(memory(Path(path), int(k), int(n_spots))))
        return
    print(f"Machine: {machine()}.\n\n| check | seen | aim |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.tif"
        write_slide(path, SMALL_PX)
        parts = {
            "speed": lambda: rows_of_throughput(path, FEW_TURNS if chosen.quick else TURNS),
            "differences": lambda: [*rows_of_differences(path), row_of_shared_tiles(path)],
            "memory": lambda: rows_of_memory(Path(folder), N_SPOTS // 10 if chosen.quick else N_SPOTS),
        }
        for name, rows in parts.items():
            if chosen.only in {None, name}:
                for row in rows():
                    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()

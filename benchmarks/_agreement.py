"""Features beside those of one tile at a time, and how many tiles are computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _networks import load_backbone, vit
from _slide import N_SPOTS, lattice, task_of

from spamcaf.histology.backbone import Backbone
from spamcaf.histology.dense import OVERLAP, FeatureGrid
from spamcaf.histology.embedding import Embedder, embed_blocks
from spamcaf.histology.features import join_blocks
from spamcaf.histology.tiles import WindowGeometry, distinct, read_tiles
from spamcaf.parameters import TileSettings

LITE0_SIDE = 7


def rows_of_differences(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of agreement with one tile at a time."""
    for name, backbone in (("ViT-S/16", vit("vit_small_patch16_224")), ("EfficientNet-lite0", load_backbone())):
        largest, cosine = differences(backbone, path)
        yield f"largest difference to one tile at a time, float32, {name}", f"{largest:.1e}", "< 1e-4"
        yield f"least cosine to it, bf16, {name}", f"{cosine:.5f}", "> 0.999"


def differences(backbone: Backbone, path: Path) -> tuple[float, float]:
    """Return the largest difference of float32 features to one tile at a time, and the least cosine of bf16 ones."""
    cpu = torch.device("cpu")
    job = task_of(path, lattice(4, 1, 0.35), 0.35, backbone)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        embedder = Embedder(backbone, cpu, dtype, 18)
        features = join_blocks(list(embed_blocks(job, embedder, job.starts(), 1)))
        found[dtype] = features.windows[features.rows(list(job.ids))]
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    expected = np.empty_like(found[torch.float32])
    with torch.inference_mode():
        for site, places in enumerate(job.geometry.tiles(job.xy_px)):
            for i, place in enumerate(places):
                tile = torch.from_numpy(read_tiles(job.slide, place[None], None).tiles[0]).permute(2, 0, 1).float()
                expected[site, i] = backbone.network(((tile / 255 - mean) / std)[None])[0].numpy()
    rough = found[torch.bfloat16]
    cosine = (rough * expected).sum(-1) / np.linalg.norm(rough, axis=-1) / np.linalg.norm(expected, axis=-1)
    return float(abs(found[torch.float32] - expected).max()), float(cosine.min())


def row_of_shared_tiles(path: Path) -> tuple[str, str, str]:
    """Return how many tiles are computed on a square lattice whose pitch is a tile."""
    x, y = np.meshgrid(np.arange(16), np.arange(16))
    xy = np.column_stack([x.ravel(), y.ravel()]) * 224.0 + 600
    job = task_of(path, xy, 0.5, vit("test_vit"))
    once = sum(len(distinct(job.boxes(start).reshape(-1, 4))[0]) for start in job.starts())
    return "tiles computed / tiles seen, 16 x 16 sites one tile apart", f"{once / (len(xy) * 9):.2f}", ""


def row_of_dense_passes() -> tuple[str, str, str]:
    """Return how many network passes the dense mode needs for spots and 16 x grid of a whole slide."""
    geometry, grid = WindowGeometry.of(TileSettings(), 0.5), FeatureGrid(224, LITE0_SIDE, OVERLAP)
    sites = lattice(N_SPOTS, 4, 0.5)
    exact = len(distinct(geometry.tiles(sites).reshape(-1, 3))[0])
    dense = len(grid.tiles(grid.cells(geometry.corners(sites))))
    what = f"network passes, exact / dense, {N_SPOTS} spots and their 16 x grid"
    return what, f"{exact / dense:.0f} x fewer ({exact} and {dense})", ">= 20 x"

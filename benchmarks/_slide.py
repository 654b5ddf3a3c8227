"""A made-up slide, spots on it, and the task of embedding them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spamcaf.histology.backbone import Backbone
from spamcaf.histology.dense import PoolingJob, SlideMapJob, dense_view
from spamcaf.histology.embedding import EmbeddingJob
from spamcaf.histology.features import FeatureKey
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.parameters import TileSettings
from spamcaf.slides.open import open_slide

CHUNK_PX = 512
PITCH_UM = 100.0
N_SPOTS = 4992
LARGE_PX, SMALL_PX = 20_000, 5_000


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


def lattice(n_spots: int, k: int, mpp: float) -> np.ndarray:
    """Return (site, 2) px: a hexagonal lattice of `n_spots`, each with its k x k sites, spots in random order.

    It lies as near to the slide's corner as windows allow that do not reach beyond it.
    """
    across = int(np.ceil(np.sqrt(n_spots * 0.866)))
    index = np.arange(n_spots)
    row, column = index // across, index % across
    spots = np.column_stack([column + 0.5 * (row % 2), row * 0.866]) * PITCH_UM / mpp
    spots = np.random.default_rng(0).permutation(spots + margin_px(mpp))
    sub = np.array([(i + 0.5 * j, 0.866 * j) for j in range(k) for i in range(k)]) / k * PITCH_UM / mpp
    return (spots[:, None] + sub).reshape(-1, 2)


def margin_px(mpp: float) -> int:
    """Return how far a site must be from the border for its window to lie on the slide."""
    return WindowGeometry.of(TileSettings(), mpp).window_px // 2 + 1


def side_for(xy_px: np.ndarray, mpp: float) -> int:
    """Return the side of a slide on which all windows of a lattice lie."""
    return int(np.ceil(xy_px.max())) + margin_px(mpp)


def task_of(path: Path, xy_px: np.ndarray, mpp: float, backbone: Backbone, block: int | None = None) -> EmbeddingJob:
    """Return the task of all tiles around `xy_px`."""
    slide, geometry = open_slide(path), WindowGeometry.of(TileSettings(), mpp)
    ids = [str(i) for i in range(len(xy_px))]
    key = FeatureKey.of(slide.fingerprint, backbone.identity, geometry.view(), geometry.window_px, ids, xy_px)
    return EmbeddingJob(slide, geometry, ids, xy_px, replace(key, block=block) if block else key)


def dense_tasks(
    path: Path, xy_px: np.ndarray, mpp: float, backbone: Backbone, side: int
) -> tuple[SlideMapJob, PoolingJob]:
    """Return the task of the slide's map, `side` features across a tile, and that of the sites averaged of it."""
    slide, geometry = open_slide(path), WindowGeometry.of(TileSettings(), mpp)
    view = {**geometry.view(), **dense_view(side)}
    of_map = SlideMapJob.of(slide, geometry, side, xy_px, backbone.identity, slide.fingerprint, view)
    ids = [str(i) for i in range(len(xy_px))]
    key = FeatureKey.of(slide.fingerprint, backbone.identity, view, geometry.window_px, ids, xy_px)
    return of_map, PoolingJob(slide, geometry, ids, xy_px, key)

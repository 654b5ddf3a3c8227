"""Running windows of a slide through the backbone, block by block."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.histology.features import FeatureKey, Features
from spamcaf.histology.tiles import N_TILES, WindowGeometry, cut_tiles, read_window, shrink_windows

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from spamcaf.histology.backbone import Backbone
    from spamcaf.histology.slide import Slide

logger = logging.getLogger(__name__)

CPU_TILES = 2 * N_TILES
"""Most tiles of a forward pass on a CPU. A layer's output above 32 MB is fresh memory from the system every time: with
63 tiles EfficientNet-lite0 ran at 55 tiles/s, with 18 at 127 (2 cores, bf16)."""


class Embedder:
    """A backbone on its device; float32 or bf16 inside, float32 out."""

    def __init__(self, backbone: Backbone, device: torch.device, dtype: torch.dtype, batch: int) -> None:
        import torch

        self._network = backbone.network.to(device).to(memory_format=torch.channels_last)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(backbone.mean, device=device).reshape(shape) * 255
        self._std = torch.tensor(backbone.std, device=device).reshape(shape) * 255
        self._device, self._dtype = device, dtype
        self._batch = min(batch, CPU_TILES) if device.type == "cpu" else batch
        self.sites_at_once = max(self._batch // N_TILES, 1)

    def embed(self, windows: Tensor) -> NDArray[np.float32]:
        """Return (site, 9, feature) for (site, 3, 672, 672) windows in 0..255."""
        return self._embed_tiles(cut_tiles(windows).flatten(0, 1)).reshape(len(windows), N_TILES, -1)

    def embed_whole(self, windows: Tensor) -> NDArray[np.float32]:
        """Return (site, feature) for (site, 3, 672, 672) windows in 0..255, each shrunk to one tile."""
        return self._embed_tiles(shrink_windows(windows))

    def _embed_tiles(self, tiles: Tensor) -> NDArray[np.float32]:
        import torch

        done: list[Tensor] = []
        start = 0
        while start < len(tiles):
            try:
                done.append(self._forward(tiles[start : start + self._batch]))
                start += self._batch
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                torch.cuda.empty_cache()
                self._batch //= 2
                logger.warning("GPU memory ran out: going on with %d tiles at a time", self._batch)
        return torch.cat(done).numpy()

    def _forward(self, tiles: Tensor) -> Tensor:
        import torch

        pixels = tiles.to(self._device, memory_format=torch.channels_last, non_blocking=True)
        pixels = (pixels - self._mean) / self._std
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32),
        ):
            output: Tensor = self._network(pixels)
        return output.float().cpu()


def embed_sites(
    slide: Slide,
    embedder: Embedder,
    geometry: WindowGeometry,
    ids: list[str],
    xy_px: NDArray[np.float64],
    key: FeatureKey,
    done: set[int],
    block: int = 64,
    *,
    with_whole: bool = False,
) -> Iterator[Features]:
    """Yield the features of `ids` in blocks; a block whose start is in `done` is skipped.

    `xy_px` is (site, 2), full-resolution pixels. `with_whole` adds those of the shrunk windows; `key` must
    say so. Blocks are of fixed size, so a run that was cut off goes on exactly where it stopped.
    """
    from tqdm.auto import tqdm

    starts = [start for start in range(0, len(ids), block) if start not in done]
    for start in tqdm(starts, desc="tiles", unit="block", disable=None):
        rows = slice(start, min(start + block, len(ids)))
        windows, n_padded, whole = _embed_block(slide, embedder, xy_px[rows], geometry, with_whole=with_whole)
        yield Features(tuple(ids[rows]), windows, n_padded, key, len(ids), start, whole)


def _embed_block(
    slide: Slide, embedder: Embedder, xy_px: NDArray[np.float64], geometry: WindowGeometry, *, with_whole: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32] | None]:
    """Embed a few sites at a time: a window is 5 MB, and fresh memory for a whole block costs more than reading it."""
    import torch

    features, n_padded, whole = [], [], []
    for start in range(0, len(xy_px), embedder.sites_at_once):
        read = [read_window(slide, xy, geometry) for xy in xy_px[start : start + embedder.sites_at_once]]
        windows = torch.stack([pixels for pixels, _ in read])
        features.append(embedder.embed(windows))
        if with_whole:
            whole.append(embedder.embed_whole(windows))
        n_padded += [n for _, n in read]
    return np.concatenate(features), np.array(n_padded, np.int64), np.concatenate(whole) if with_whole else None

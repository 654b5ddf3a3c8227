"""Features of the tiles around the sites of a slide, computed by the backbone block by block."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spamcaf.errors import InputError, first_line
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.features import FeatureKey, Features
from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import (
    CENTRE,
    N_TILES,
    TILE_PX,
    Stain,
    WindowGeometry,
    distinct,
    prefetch_tiles,
    reading_order,
    with_turn,
)

logger = logging.getLogger(__name__)

CPU_TILES = 2 * N_TILES
"""Most tiles of a forward pass on a CPU. A layer's output above 32 MB is newly allocated by the system every time: with
63 tiles EfficientNet-lite0 ran at 55 tiles/s, with 18 at 127 (2 cores, bf16)."""


class Embedder:
    """A backbone on its device, compiled by torch where `is_compiled`; float32 or bfloat16 inside, float32 out.

    A forward pass takes up to `batch` tiles, fewer once GPU memory has run out.
    """

    def __init__(
        self, backbone: Backbone, device: torch.device, dtype: torch.dtype, batch: int, *, is_compiled: bool = False
    ) -> None:
        self._name, self._dtype, self._is_compiled = backbone.identity.name, dtype, is_compiled
        try:
            network = backbone.network.to(device).to(memory_format=torch.channels_last)
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large() from error
        self._network = cast(nn.Module, torch.compile(network, dynamic=False)) if is_compiled else network
        # a whole line of pixels each: along three channels alone the arithmetic took 15 times as long on a CPU
        channels = backbone.mean, backbone.std
        self._mean, self._std = (torch.tensor(each, device=device).repeat(TILE_PX) * 255 for each in channels)
        self.device, self.width, self.maps, self.n_outputs = device, backbone.width, backbone.maps, backbone.n_outputs
        self.batch = min(batch, CPU_TILES) if device.type == "cpu" else batch

    def embed(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Return (tile, feature) float32 on the device for (tile, 224, 224, 3) RGB uint8; a GPU may still be computing.

        Raises InputError where a GPU has no room for a single tile, or torch cannot compile the network.
        """
        done: list[Tensor] = []
        while len(tiles):
            try:
                done.append(self._forward(tiles[: self.batch]))
                tiles = tiles[self.batch :]
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise self._too_large() from None
                torch.cuda.empty_cache()
                self.batch //= 2
                logger.warning("GPU memory ran out: going on with %d tiles at a time", self.batch)
            except _compile_error() as error:  # evaluated only when something was raised: its import is slow
                raise InputError(
                    f"compute.compile, but torch cannot compile the backbone: {first_line(error)}.",
                    "a working C++ compiler (on a GPU, Triton) and a network that torch can compile.",
                    "Install a compiler such as g++, or set compute.compile to false.",
                ) from error
        return torch.cat(done)

    def _forward(self, tiles: NDArray[np.uint8]) -> Tensor:
        lines = torch.from_numpy(tiles).flatten(2)
        if self._is_compiled:  # for one shape alone: a smaller batch is filled up
            lines = nn.functional.pad(lines, (0, 0, 0, 0, 0, self.batch - len(tiles)))
        if self.device.type == "cuda":
            lines = lines.pin_memory().to(self.device, non_blocking=True)
        # as they lie in memory, channels come last
        pixels = lines.float().sub_(self._mean).div_(self._std).unflatten(2, tiles.shape[2:]).permute(0, 3, 1, 2)
        is_exact = self._dtype == torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self._dtype, enabled=not is_exact),
            # by default a GPU rounds the inputs of convolutions to 10 bits
            torch.backends.cudnn.flags(enabled=True, allow_tf32=not is_exact),
        ):
            output: Tensor = self._network(pixels)
        return output[: len(tiles)].float()

    def _too_large(self) -> InputError:
        return InputError(
            f"too little free GPU memory for {self._name}.",
            "room for the network and a tile.",
            "Free the GPU, or take the CPU (--params compute.device=cpu) or a smaller backbone.",
        )


def _compile_error() -> type[Exception]:
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


@dataclass(frozen=True)
class EmbeddingJob:
    """The sites of a slide to compute features of, and how."""

    slide: Slide
    geometry: WindowGeometry
    ids: Sequence[str]
    xy_px: NDArray[np.float64]  # (site, 2), full-resolution pixels
    key: FeatureKey  # tells `with_whole`, `stain` and the geometry's views, too
    with_whole: bool = False  # add the features of each window shrunk to one tile
    stain: Stain | None = None

    unit: ClassVar[str] = "sites"  # of the progress

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Sites in the order they are read; blocks are cut from it, so that a block is one part of the slide."""
        return reading_order(self.xy_px, 1 if self.slide.is_striped else self.geometry.window_px)

    def starts(self) -> list[int]:
        """Return where blocks start in that order; no site at all is one empty block."""
        return list(range(0, max(len(self.ids), 1), self.key.block))

    def rows(self, start: int) -> NDArray[np.intp]:
        """Return the sites of the block at `start`."""
        return self.order[start : start + self.key.block]

    def ids_at(self, start: int) -> tuple[str, ...]:
        """Return the names of the sites of the block at `start`."""
        return tuple(self.ids[row] for row in self.rows(start))

    def mark(self, width: int, maps: tuple[int, ...] = ()) -> Features:
        """Return a block without sites, which tells a store which key is in use where nothing is missing.

        `width` and `maps` are those of the backbone: a store without any site is made of it.
        """
        windows = np.empty((0, N_TILES, width), np.float32)
        whole = windows[:, 0] if self.with_whole else None
        no_maps = np.empty((0, self.geometry.views, *maps), np.float16) if maps else None
        return Features((), windows, np.empty(0, np.int64), self.key, len(self.ids), 0, whole, no_maps)

    def boxes(self, start: int) -> NDArray[np.int64]:
        """Return what to read for each site of a block, (site, box, 4): tiles, whole window, views of the target tile.

        The plain target tile is among them: another site may have it as a neighbour.
        """
        xy_px = self.xy_px[self.rows(start)]
        squares = [self.geometry.tiles(xy_px)] + [self.geometry.windows(xy_px)] * self.with_whole
        return np.concatenate([*map(with_turn, squares), self.geometry.target_views(xy_px)], axis=1)


def embed_blocks(job: EmbeddingJob, embedder: Embedder, starts: Sequence[int], threads: int) -> Iterator[Features]:
    """Yield the features of the blocks at `starts`, while `threads` threads prepare what comes next.

    Neighbouring sites of a lattice share tiles: each distinct box of a block is computed once.
    """
    batch = embedder.batch  # fewer tiles may pass once GPU memory has run out: blocks stay as they were cut
    ahead = (boxes for start in starts for boxes in _batches(job, start, batch)[0])
    tiles = prefetch_tiles(job.slide, ahead, job.stain, threads)
    for start in starts:
        batches, which = _batches(job, start, batch)
        outputs, n_padded = [torch.empty(0, embedder.n_outputs)], [np.empty(0, np.int64)]
        for ready in islice(tiles, len(batches)):
            outputs.append(embedder.embed(ready.tiles))
            n_padded.append(ready.n_padded)
        # a GPU is waited for once in a block
        output = torch.cat([output.to("cpu") for output in outputs]).numpy()
        features, views = output[:, : embedder.width][which], [CENTRE, *range(N_TILES + job.with_whole, which.shape[1])]
        n_px_padded = np.concatenate(n_padded)[which][:, :N_TILES].sum(axis=1)
        windows = np.ascontiguousarray(features[:, :N_TILES])
        if job.geometry.views > 1:
            windows[:, CENTRE] = features[:, views].sum(axis=1) / job.geometry.views
        whole = np.ascontiguousarray(features[:, N_TILES]) if job.with_whole else None
        maps = None
        if embedder.maps:
            maps = (
                output[which[:, views], embedder.width :]
                .astype(np.float16)
                .reshape(*which[:, views].shape, *embedder.maps)
            )
        yield Features(job.ids_at(start), windows, n_px_padded, job.key, len(job.ids), start, whole, maps)


def _batches(job: EmbeddingJob, start: int, batch: int) -> tuple[list[NDArray[np.int64]], NDArray[np.intp]]:
    """Return a block's distinct boxes in batches, and which of them each site needs, (site, box)."""
    boxes = job.boxes(start)
    once, which = distinct(boxes.reshape(-1, 4))
    # not across blocks: a block must not depend on whether those before it were computed in this run
    return [once[i : i + batch] for i in range(0, len(once), batch)], which.reshape(boxes.shape[:2])

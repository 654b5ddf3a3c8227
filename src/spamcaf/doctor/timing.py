"""How long a run will take: tiles at the speed of the backbone on this machine, and what follows by spots and genes."""

from __future__ import annotations

import time
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.backbones.weights import TIMEOUT_S
from spamcaf.compute import choose_precision, computing
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.doctor.check import Finding
from spamcaf.errors import InputError
from spamcaf.histology.dense import OVERLAP
from spamcaf.histology.tiles import TILE_PX, TILES_ACROSS, WindowGeometry
from spamcaf.names import Model
from spamcaf.progress import HOUR, seconds_in_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spamcaf.doctor.machine import Inputs, Resources
    from spamcaf.histology.embedding import Embedder
    from spamcaf.parameters import RunSettings

LONG_S = 8 * HOUR
SLOW_S = 0.3  # of one tile: of a slower backbone no batch is timed
BATCH = 16
READING = 1.15  # of a tile's time through the network: reading and scaling of tiles beside it
# Processor seconds of one thread on sections of 334 and 3909 spots, 1000 genes, see the benchmarks: training with the
# network by spot and epoch, the rest of a run by site and gene, and what any run takes.
TRAINING_S, SITE_GENE_S, FIXED_S = 1.8e-3, 2e-5, 10.0


def check_time(
    backbone: object, settings: RunSettings, inputs: Inputs | None, resources: Resources | None
) -> Finding[None]:
    """Estimate the time of a run whose inputs are known; its tiles are timed where the backbone's weights are here."""
    if inputs is None or resources is None:
        return Finding("what a run takes depends on the inputs")
    n_genes = len(settings.panel.genes) or settings.panel.n_genes
    rest = rest_seconds(settings, inputs.n_spots, resources.n_sites, n_genes)
    found = f"training and scores of {inputs.n_spots} spots x {n_genes} genes about {seconds_in_words(rest)}"
    if settings.fit.model == Model.RELEASED:
        found += f", without the {settings.released.epochs} epochs of fit.model=released, which take hours on a CPU"
    if isinstance(backbone, BackboneDataset) and backbone.is_blind:
        return Finding(found)
    per_tile = seconds_per_tile(backbone, settings)
    if per_tile is None:
        return Finding(f"{found}; the backbone is timed once its weights are on this machine")
    n_tiles = likely_tiles(settings, inputs, resources)
    total = rest + n_tiles * per_tile
    tiles = f"about {n_tiles} tiles at {1 / per_tile:.2g} per second, measured now"
    text = f"about {seconds_in_words(total)} on this machine: {tiles}; {found}"
    if total < LONG_S:
        return Finding(text)
    fix = "Use a GPU or a smaller backbone, or let it run: features are stored as they come, a killed run goes on."
    return Finding(text, fix)


def likely_tiles(settings: RunSettings, inputs: Inputs, resources: Resources) -> int:
    """Return how many tiles go through the backbone: of a map those of tissue as large as its spots, in one piece."""
    if settings.tiles.dense is not True:
        return resources.n_tiles
    tile_px = WindowGeometry.of(settings.tiles, inputs.mpp).tile_px
    side_px = sqrt(inputs.n_spots) * inputs.pitch_um / inputs.mpp + TILES_ACROSS * tile_px
    return min(resources.n_tiles, ceil(OVERLAP * side_px / tile_px) ** 2)


def rest_seconds(settings: RunSettings, n_spots: int, n_sites: int, n_genes: int) -> float:
    """Return about how many processor seconds a run takes beside the backbone; the model is fitted twice."""
    seen = 2 - settings.split.hidden_share
    epochs = settings.fit.epochs if settings.fit.use_network else 0
    return FIXED_S + TRAINING_S * seen * n_spots * epochs + SITE_GENE_S * n_sites * n_genes


def seconds_per_tile(backbone: object, settings: RunSettings) -> float | None:
    """Return the time of a tile on the run's device, of one batch; None where the weights are not on this machine."""
    from spamcaf.histology.embedding import Embedder

    try:
        if not isinstance(backbone, BackboneDataset) or not backbone.probe(TIMEOUT_S).is_here:
            return None
    except InputError:
        return None  # the check of the backbone says so
    loaded = backbone.load()  # finds damaged weights too
    with computing(settings.compute) as machine:
        dtype = choose_precision(settings.compute, machine.device)
        embedder = Embedder(loaded, machine.device, dtype, settings.tiles.batch)
        tiles = np.random.default_rng(0).integers(0, 256, (BATCH, TILE_PX, TILE_PX, 3), np.uint8)
        embedder.embed(tiles[:1]).cpu()  # the first pass also allocates
        once = _timed(embedder, tiles[:1])
        return READING * (once if once > SLOW_S else _timed(embedder, tiles) / BATCH)


def _timed(embedder: Embedder, tiles: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    embedder.embed(tiles).cpu()
    return time.perf_counter() - start

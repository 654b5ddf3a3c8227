"""What a run will need, from its settings and the size of its inputs: sites, tiles, bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from spamcaf.histology.dense import OVERLAP
from spamcaf.histology.tiles import N_TILES, TILES_ACROSS, WindowGeometry
from spamcaf.parameters import RunSettings

FLOAT_BYTES = 4
LAYERS = 3
"""Matrices of a prediction: expression, its standard deviation and the Gaussian process's share."""
COPIES = 2
"""A prediction is stored as h5ad and inside the SpatialData."""
PROCESS_BYTES = 600_000_000
"""Python with torch and the libraries around it."""
LEARNING_COPIES = 3
"""The spots' features are held as they are, side by side with other sections', and centred."""
DENSE_NODES = 2
"""Spots and grid are embedded one after the other, each over the whole raster."""
PYRAMID = 4 / 3
"""Size of an image with all its smaller levels."""


@dataclass(frozen=True)
class Inputs:
    """The size of what was read: spots under tissue, the image's (rows, columns), whether it is held whole, um/px."""

    n_spots: int
    image_px: tuple[int, int]
    is_held_whole: bool
    mpp: float


@dataclass(frozen=True)
class Need:
    """Upper bounds: sites off the tissue are dropped later, and files are compressed."""

    n_sites: int
    n_tiles: int
    feature_bytes: int
    spot_bytes: int
    prediction_bytes: int
    image_bytes: int
    output_bytes: int

    @property
    def memory_bytes(self) -> int:
        """What is held at once at least: program, spots' features, a prediction, and an image without windows."""
        return PROCESS_BYTES + self.spot_bytes + self.prediction_bytes + self.image_bytes

    @property
    def disk_bytes(self) -> int:
        """What is stored: features and results."""
        return self.feature_bytes + self.output_bytes


def need_of(settings: RunSettings, inputs: Inputs, width: int, subdivide: int | None = None) -> Need:
    """Return what a run needs whose backbone gives `width` features; `subdivide` replaces the setting's own."""
    n_sites = inputs.n_spots * (subdivide or settings.grid.subdivide) ** 2
    image = inputs.image_px[0] * inputs.image_px[1] * 3
    n_genes = len(settings.panel.genes) or settings.panel.n_genes
    site_bytes = N_TILES * width * FLOAT_BYTES
    prediction = n_sites * n_genes * FLOAT_BYTES * LAYERS
    return Need(
        n_sites=n_sites,
        n_tiles=min(n_sites * N_TILES, _raster_tiles(settings, inputs)) if settings.tiles.dense else n_sites * N_TILES,
        feature_bytes=n_sites * site_bytes,
        spot_bytes=inputs.n_spots * site_bytes * LEARNING_COPIES,
        prediction_bytes=prediction,
        image_bytes=image if inputs.is_held_whole else 0,
        output_bytes=prediction * COPIES + int(image * PYRAMID),
    )


def _raster_tiles(settings: RunSettings, inputs: Inputs) -> int:
    """Return the tiles of the rasters over the whole image, and what windows reach beyond it."""
    tile_px = WindowGeometry.of(settings.tiles, inputs.mpp).tile_px
    rows, columns = (OVERLAP * (ceil(side / tile_px) + TILES_ACROSS) for side in inputs.image_px)
    return DENSE_NODES * rows * columns


def in_words(n_bytes: float) -> str:
    """Return a size in MB or GB (powers of 1000)."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"  # noqa: PLR2004

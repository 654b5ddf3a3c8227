"""What a run will need, from its settings and the size of its inputs: sites, tiles, bytes."""

from __future__ import annotations

from dataclasses import dataclass

from spamcaf.parameters import RunSettings

TILES_PER_SITE = 9
FLOAT_BYTES = 4
LAYERS = 3
"""Matrices of a prediction: expression, its standard deviation and the Gaussian process's share."""
COPIES = 2
"""A prediction is stored as h5ad and inside the SpatialData."""
PYRAMID = 4 / 3
"""Size of an image with all its smaller levels."""


@dataclass(frozen=True)
class Inputs:
    """The size of what was read: spots under tissue, the image's (rows, columns), and whether it is held whole."""

    n_spots: int
    image_px: tuple[int, int]
    is_held_whole: bool


@dataclass(frozen=True)
class Need:
    """Upper bounds: sites off the tissue are dropped later, and files are compressed."""

    n_sites: int
    feature_bytes: int
    image_bytes: int
    output_bytes: int

    @property
    def n_tiles(self) -> int:
        """Tiles that go through the backbone."""
        return self.n_sites * TILES_PER_SITE

    @property
    def memory_bytes(self) -> int:
        """What is held in memory at once at least: the features of all sites, and an image without windows."""
        return self.feature_bytes + self.image_bytes

    @property
    def disk_bytes(self) -> int:
        """What is stored: features and results."""
        return self.feature_bytes + self.output_bytes


def need_of(settings: RunSettings, inputs: Inputs, width: int, subdivide: int | None = None) -> Need:
    """Return what a run needs whose backbone gives `width` features; `subdivide` replaces the setting's own."""
    n_sites = inputs.n_spots * (subdivide or settings.grid.subdivide) ** 2
    image = inputs.image_px[0] * inputs.image_px[1] * 3
    n_genes = len(settings.panel.genes) or settings.panel.n_genes
    tables = n_sites * n_genes * FLOAT_BYTES * LAYERS * COPIES
    return Need(
        n_sites=n_sites,
        feature_bytes=n_sites * TILES_PER_SITE * width * FLOAT_BYTES,
        image_bytes=image if inputs.is_held_whole else 0,
        output_bytes=tables + int(image * PYRAMID),
    )


def in_words(n_bytes: float) -> str:
    """Return a size in MB or GB (powers of 1000)."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"  # noqa: PLR2004

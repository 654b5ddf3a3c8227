"""What a run needs, and do device, memory and disk suffice?"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.compute import choose_device, choose_precision
from spamcaf.doctor.check import Check, passed, warned
from spamcaf.errors import InputError
from spamcaf.histology.dense import OVERLAP
from spamcaf.histology.tiles import N_TILES, TILES_ACROSS, WindowGeometry
from spamcaf.parameters import RunSettings

if TYPE_CHECKING:
    from spamcaf.backbones.load import BackboneSpec
    from spamcaf.parameters import ComputeSettings

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and usage of version 2 and of version 1."""


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Return the memory that is left: the system's or the container's, whichever is less; None where neither is said.

    Where the system does not say what is free, it is all that is built in.
    """
    system = _of_system(meminfo)
    container = _of_container(cgroup)
    return min((value for value in (system, container) if value is not None), default=None)


def _of_system(meminfo: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return _built_in()


def _built_in() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container(cgroup: Path) -> int | None:
    for limit, usage in CGROUP_FILES:
        try:
            return max(int((cgroup / limit).read_text()) - int((cgroup / usage).read_text()), 0)
        except (OSError, ValueError):  # absent, or "max": no limit
            continue
    return None


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
class Resources:
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


def estimate_resources(settings: RunSettings, inputs: Inputs, width: int, subdivide: int | None = None) -> Resources:
    """Return what a run needs whose backbone gives `width` features; `subdivide` replaces the setting's own."""
    n_sites = inputs.n_spots * (subdivide or settings.grid.subdivide) ** 2
    image = inputs.image_px[0] * inputs.image_px[1] * 3
    n_genes = len(settings.panel.genes) or settings.panel.n_genes
    site_bytes = N_TILES * width * FLOAT_BYTES
    prediction = n_sites * n_genes * FLOAT_BYTES * LAYERS
    return Resources(
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


DEVICE, MEMORY, DISK = "device", "memory", "disk"
LARGE_WIDTH = 768
"""Features of a ViT-B, from which on a CPU is slow."""


def check_device(
    compute: ComputeSettings, spec: BackboneSpec | None, resources: Resources | None
) -> tuple[Check, None]:
    """Say where the run will compute; raise InputError when CUDA is asked for and missing."""
    import torch

    device = choose_device(compute)
    precision = str(choose_precision(compute, device)).removeprefix("torch.")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return passed(DEVICE, f"{name}, {in_words(free)} of {in_words(total)} free, backbone in {precision}"), None
    found = f"CPU, {compute.threads or torch.get_num_threads()} threads, backbone in {precision}"
    if spec is None or "vit" not in spec.architecture or spec.width < LARGE_WIDTH:
        return passed(DEVICE, found), None
    tiles = f"up to {resources.n_tiles} tiles ({resources.n_sites} sites)" if resources else "all tiles"
    return warned(
        DEVICE,
        f"{found}; {tiles} go through {spec.architecture}, a large network for a CPU",
        "Use a machine with a CUDA device, or a smaller backbone: --params backbone=efficientnet_lite0.",
    ), None


def check_memory(
    available: int | None, settings: RunSettings, inputs: Inputs | None, width: int | None
) -> tuple[Check, None]:
    """Compare `available` bytes with what is held at once; raise InputError when that cannot fit."""
    if available is None:
        return warned(MEMORY, "this system does not say how much is available", "Look at its own monitor."), None
    if inputs is None or width is None:
        return passed(MEMORY, f"{in_words(available)} available; what is needed depends on the inputs"), None
    resources = estimate_resources(settings, inputs, width)
    image = f", the image {in_words(resources.image_bytes)}" if resources.image_bytes else ""
    found = (
        f"{in_words(available)} available; the program takes {in_words(PROCESS_BYTES)}, learning "
        f"{in_words(resources.spot_bytes)}, a prediction of up to {resources.n_sites} sites "
        f"{in_words(resources.prediction_bytes)}{image}"
    )
    fix = _smaller(settings, inputs, width, available)
    if resources.memory_bytes > available:
        raise InputError(f"{found}.", f"at least {in_words(resources.memory_bytes)}.", fix)
    if _with_copy(resources) > available:
        return warned(MEMORY, f"{found}, which is copied when it is written", fix), None
    return passed(MEMORY, found), None


def _smaller(settings: RunSettings, inputs: Inputs, width: int, available: int) -> str:
    """Return the next step for too little memory: the largest subdivision that fits, or another machine."""
    for k in range(settings.grid.subdivide - 1, 0, -1):
        resources = estimate_resources(settings, inputs, width, k)
        if _with_copy(resources) <= available:
            return f"Predict fewer sites: --params grid.subdivide={k}. Or use a machine with more memory."
    return "Use a machine with more memory, or close other programs."


def _with_copy(resources: Resources) -> int:
    return resources.memory_bytes + resources.prediction_bytes


def check_disk(data: Path, resources: Resources | None) -> tuple[Check, None]:
    """Check that results can be written under `data`, and fit there; raise InputError otherwise. Writes nothing."""
    place = next(path for path in (data, *data.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{place} cannot be written to.", "a folder for results.", f"Change its owner or permissions: {place}."
        )
    free = shutil.disk_usage(place).free
    if resources is None:
        return passed(DISK, f"{in_words(free)} free under {data}; what is needed depends on the inputs"), None
    found = (
        f"{in_words(free)} free under {data}; features take up to {in_words(resources.feature_bytes)}, "
        f"results up to {in_words(resources.output_bytes)}"
    )
    fix = f"Make room, or link {data} to a larger disk."
    if resources.disk_bytes > free:
        raise InputError(f"{found}.", f"{in_words(resources.disk_bytes)}.", fix)
    # an older result stays until the new one is whole
    if 2 * resources.disk_bytes > free:
        return warned(DISK, f"{found}; older results stay until the new ones are whole", fix), None
    return passed(DISK, found), None

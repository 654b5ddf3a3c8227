"""Checks of the machine: do device, memory, disk and software suffice for what a run needs?"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, replace
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.compute import choose_device, choose_precision
from spamcaf.doctor.check import Finding
from spamcaf.errors import InputError, first_line
from spamcaf.histology.dense import OVERLAP
from spamcaf.histology.tiles import N_TILES, TILES_ACROSS, WindowGeometry
from spamcaf.progress import bytes_in_words
from spamcaf.sections.sites import IN_MEMORY

if TYPE_CHECKING:
    from spamcaf.backbones.load import BackboneSpec
    from spamcaf.parameters import ComputeSettings, RunSettings

FLOAT_BYTES = 4
LAYERS = 3  # matrices of a prediction: expression, its standard deviation and the Gaussian process's part
COPIES = 2  # a prediction is stored as h5ad and inside the SpatialData
PROCESS_BYTES = 600_000_000  # Python with torch and the libraries around it
TRAINING_COPIES = 3  # features of the spots as they are, concatenated with other sections', and centred
MAP_SIDE = 16  # features of a map across a tile, those of a vision transformer; convolutional networks have 7
HALF_BYTES = 2
# Of many spots the features stay in their store. Measured on sections of 30 000 and 100 000 bins, see the benchmarks:
FEATURE_BYTES = 16  # per spot and feature: tile and neighbourhood, as they are and centred
GENE_BYTES = 14  # per spot and gene: expression in single precision, part of it in double
SPOT_BYTES = 2000  # per spot: positions, names, scores
SCORE_BYTES = 51  # per spot and predicted gene: scores of the model and six baselines, half of the spots hidden
LARGER_BINS = (2, 4, 8)  # times as wide; those of Space Ranger are 2, 8 and 16 um
PYRAMID = 4 / 3  # size of an image with all its smaller levels, relative to the image
LARGE_WIDTH = 768  # features of a ViT-B, from which on a CPU is slow
PACKAGES = ("spamcaf", "kedro", "torch", "torchvision", "timm", "scanpy", "anndata")


@dataclass(frozen=True)
class Inputs:
    """Size of the inputs: spots under tissue, the image's (rows, columns), whether it is held whole, um per pixel.

    `bin_um` is the bin size of Visium HD, None elsewhere; `pitch_um` the distance of neighbouring spots.
    """

    n_spots: int
    image_px: tuple[int, int]
    is_held_whole: bool
    mpp: float
    bin_um: float | None = None
    pitch_um: float | None = None


@dataclass(frozen=True)
class Resources:
    """Upper bounds, in bytes where not counted: sites off the tissue are dropped later, and files are compressed."""

    n_sites: int
    n_tiles: int
    feature_bytes: int
    spot_bytes: int
    prediction_bytes: int
    image_bytes: int
    output_bytes: int
    frees_fit: bool = False  # many spots: what the fit holds is freed before a prediction, but for a half

    @property
    def memory_bytes(self) -> int:
        """What is held at once at least: program, spots' features, a prediction, and an image without windows."""
        both = self.spot_bytes + self.prediction_bytes
        if self.frees_fit:
            both = max(self.spot_bytes, self.spot_bytes // 2 + self.prediction_bytes)
        return PROCESS_BYTES + both + self.image_bytes

    @property
    def disk_bytes(self) -> int:
        """What is stored: features and results."""
        return self.feature_bytes + self.output_bytes


def estimate_resources(settings: RunSettings, inputs: Inputs, width: int, subdivide: int | None = None) -> Resources:
    """Estimate what a run needs whose backbone has `width` features; `subdivide` replaces the setting's own.

    `tiles.dense` must be decided: auto counts as false.
    """
    n_sites = inputs.n_spots * (subdivide or settings.grid.subdivide) ** 2
    image = inputs.image_px[0] * inputs.image_px[1] * 3
    n_genes = len(settings.panel.genes) or settings.panel.n_genes
    is_large = inputs.n_spots > IN_MEMORY
    fit_bytes = FEATURE_BYTES * width + GENE_BYTES * (n_genes + settings.panel.n_program_genes) + SPOT_BYTES
    site_bytes, n_tiles = N_TILES * width * FLOAT_BYTES, n_sites * (N_TILES + settings.tiles.views - 1)
    prediction = n_sites * n_genes * FLOAT_BYTES * LAYERS
    map_bytes = 0
    if settings.tiles.dense is True:  # at most the raster over the whole image, and as far as windows reach beyond it
        tile_px = WindowGeometry.of(settings.tiles, inputs.mpp).tile_px
        rows, columns = (OVERLAP * (ceil(side / tile_px) + TILES_ACROSS) for side in inputs.image_px)
        n_tiles = rows * columns
        map_bytes = n_tiles // OVERLAP**2 * MAP_SIDE**2 * width * HALF_BYTES
    return Resources(
        n_sites=n_sites,
        n_tiles=n_tiles,
        feature_bytes=n_sites * site_bytes + map_bytes,
        spot_bytes=inputs.n_spots
        * (max(fit_bytes, SCORE_BYTES * n_genes) if is_large else site_bytes * TRAINING_COPIES),
        prediction_bytes=prediction,
        image_bytes=image if inputs.is_held_whole else 0,
        output_bytes=prediction * COPIES + int(image * PYRAMID),
        frees_fit=is_large,
    )


def check_device(compute: ComputeSettings, spec: BackboneSpec | None, resources: Resources | None) -> Finding[None]:
    """Name the device of the run; raise InputError when CUDA is required and missing."""
    import torch

    device = choose_device(compute)
    precision = str(choose_precision(compute, device)).removeprefix("torch.")
    if device.type == "cuda":
        free, total = (bytes_in_words(size) for size in torch.cuda.mem_get_info(device))
        return Finding(f"{torch.cuda.get_device_name(device)}, {free} of {total} free, backbone in {precision}")
    found = f"CPU, {compute.threads or torch.get_num_threads()} threads, backbone in {precision}"
    if spec is None or "vit" not in spec.architecture or spec.width < LARGE_WIDTH:
        return Finding(found)
    tiles = f"up to {resources.n_tiles} tiles ({resources.n_sites} sites)" if resources else "all tiles"
    fix = "Use a machine with a CUDA device, or a smaller backbone: --params backbone=efficientnet_lite0."
    return Finding(f"{found}; {tiles} go through {spec.architecture}, a large network for a CPU", fix)


def check_memory(
    available: int | None, settings: RunSettings, inputs: Inputs | None, width: int | None
) -> Finding[None]:
    """Compare `available` bytes with what is held at once; raise InputError when that cannot fit."""
    if available is None:
        return Finding("this system does not report how much is available", "Look at its own monitor.")
    if inputs is None or width is None:
        return Finding(f"{bytes_in_words(available)} available; what is needed depends on the inputs")
    resources = estimate_resources(settings, inputs, width)
    image = f", the image {bytes_in_words(resources.image_bytes)}" if resources.image_bytes else ""
    found = (
        f"{bytes_in_words(available)} available; the program takes {bytes_in_words(PROCESS_BYTES)}, training "
        f"and scores {bytes_in_words(resources.spot_bytes)}, a prediction of up to {resources.n_sites} sites "
        f"{bytes_in_words(resources.prediction_bytes)}{image}"
    )
    if _fits(resources, available):
        return Finding(found)
    fix = "Use a machine with more memory, or close other programs."
    if bins := _bins_that_fit(settings, inputs, width, available):
        fix = f"Read larger bins: --params {bins}. Or use a machine with more memory."
    for k in range(1, settings.grid.subdivide):  # the largest that fits
        if _fits(estimate_resources(settings, inputs, width, k), available):
            fix = f"Predict fewer sites: --params grid.subdivide={k}. Or use a machine with more memory."
    if resources.memory_bytes > available:
        raise InputError(f"{found}.", f"at least {bytes_in_words(resources.memory_bytes)}.", fix)
    return Finding(f"{found}, which is copied when it is written", fix)


def _bins_that_fit(settings: RunSettings, inputs: Inputs, width: int, available: int) -> str:
    """Return the settings of the smallest larger bins of Visium HD that fit, between which no site is predicted."""
    for factor in LARGER_BINS if inputs.bin_um else ():
        larger = replace(inputs, n_spots=ceil(inputs.n_spots / factor**2))
        if _fits(estimate_resources(settings, larger, width, 1), available):
            return f"bin_um={(inputs.bin_um or 0) * factor:g},grid.subdivide=1"
    return ""


def _fits(resources: Resources, available: int) -> bool:
    return resources.memory_bytes + resources.prediction_bytes <= available  # a prediction is copied to be written


def check_disk(data: Path, resources: Resources | None) -> Finding[None]:
    """Check that results can be written under `data`, and fit there; raise InputError otherwise. Writes nothing."""
    place = next(path for path in (data, *data.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        fix = f"Change its owner or permissions: {place}."
        raise InputError(f"{place} cannot be written to.", "a folder for results.", fix)
    free = shutil.disk_usage(place).free
    if resources is None:
        return Finding(f"{bytes_in_words(free)} free under {data}; what is needed depends on the inputs")
    found = (
        f"{bytes_in_words(free)} free under {data}; features take up to {bytes_in_words(resources.feature_bytes)}, "
        f"results up to {bytes_in_words(resources.output_bytes)}"
    )
    fix = f"Make room, or link {data} to a larger disk."
    if resources.disk_bytes > free:
        raise InputError(f"{found}.", f"{bytes_in_words(resources.disk_bytes)}.", fix)
    if 2 * resources.disk_bytes > free:
        return Finding(f"{found}; older results stay until the new ones are whole", fix)
    return Finding(found)


def check_software() -> Finding[None]:
    """List the main packages; raise InputError when one is missing, or torch and torchvision do not fit."""
    versions, missing = {"python": platform.python_version()}, []
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        found = f"{', '.join(missing)} not installed."
        raise InputError(found, "all packages of pyproject.toml.", "Run `pip install -e .` again.")
    try:
        import torchvision  # noqa: F401  its compiled operators are registered with torch here
    except (ImportError, RuntimeError, OSError) as error:
        raise InputError(
            f"torch {versions['torch']} and torchvision {versions['torchvision']}, which do not work together "
            f"({first_line(error)}).",
            "a pair that was built together.",
            "Run `pip install --upgrade torch torchvision` from one index.",
        ) from error
    return Finding(", ".join(f"{name} {number}" for name, number in versions.items()))

"""Do device, memory and disk suffice?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.compute import choose_device, choose_precision
from spamcaf.doctor.check import Check, passed, warned
from spamcaf.doctor.need import PROCESS_BYTES, Inputs, Need, in_words, need_of
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from spamcaf.backbones.load import BackboneSpec
    from spamcaf.parameters import ComputeSettings, RunSettings

DEVICE, MEMORY, DISK = "device", "memory", "disk"
LARGE_WIDTH = 768
"""Features of a ViT-B, from which on a CPU is slow."""


def check_device(compute: ComputeSettings, spec: BackboneSpec | None, need: Need | None) -> tuple[Check, None]:
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
    tiles = f"up to {need.n_tiles} tiles ({need.n_sites} sites)" if need else "all tiles"
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
    need = need_of(settings, inputs, width)
    image = f", the image {in_words(need.image_bytes)}" if need.image_bytes else ""
    found = (
        f"{in_words(available)} available; the program takes {in_words(PROCESS_BYTES)}, learning "
        f"{in_words(need.spot_bytes)}, a prediction of up to {need.n_sites} sites "
        f"{in_words(need.prediction_bytes)}{image}"
    )
    fix = _smaller(settings, inputs, width, available)
    if need.memory_bytes > available:
        raise InputError(f"{found}.", f"at least {in_words(need.memory_bytes)}.", fix)
    if _with_copy(need) > available:
        return warned(MEMORY, f"{found}, which is copied when it is written", fix), None
    return passed(MEMORY, found), None


def _smaller(settings: RunSettings, inputs: Inputs, width: int, available: int) -> str:
    """Return the next step for too little memory: the largest subdivision that fits, or another machine."""
    for k in range(settings.grid.subdivide - 1, 0, -1):
        need = need_of(settings, inputs, width, k)
        if _with_copy(need) <= available:
            return f"Predict fewer sites: --params grid.subdivide={k}. Or use a machine with more memory."
    return "Use a machine with more memory, or close other programs."


def _with_copy(need: Need) -> int:
    return need.memory_bytes + need.prediction_bytes


def check_disk(data: Path, need: Need | None) -> tuple[Check, None]:
    """Check that results can be written under `data`, and fit there; raise InputError otherwise. Writes nothing."""
    place = next(path for path in (data, *data.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{place} cannot be written to.", "a folder for results.", f"Change its owner or permissions: {place}."
        )
    free = shutil.disk_usage(place).free
    if need is None:
        return passed(DISK, f"{in_words(free)} free under {data}; what is needed depends on the inputs"), None
    found = (
        f"{in_words(free)} free under {data}; features take up to {in_words(need.feature_bytes)}, "
        f"results up to {in_words(need.output_bytes)}"
    )
    fix = f"Make room, or link {data} to a larger disk."
    if need.disk_bytes > free:
        raise InputError(f"{found}.", f"{in_words(need.disk_bytes)}.", fix)
    # an older result stays until the new one is whole
    if 2 * need.disk_bytes > free:
        return warned(DISK, f"{found}; older results stay until the new ones are whole", fix), None
    return passed(DISK, found), None

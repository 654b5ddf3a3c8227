"""What a backbone's name stands for: an entry of `backbones`, a name of timm's, or a folder in timm's hub format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError, first_line
from spamcaf.histology.backbone import TILE_PX

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

TIMM = "timm/"


def find_entry(name: str, backbones: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the entry that `name` stands for; raise InputError when there is none."""
    if name in backbones:
        return dict(backbones[name])
    entry = _of_folder(Path(name).expanduser()) or _of_timm(name.removeprefix(TIMM))
    if entry is None:
        raise InputError(
            f"backbone '{name}'.",
            f"one of {', '.join(backbones)}.",
            "Choose one (--params backbone=<name>), name a pretrained timm model (timm/<model>), "
            "or add an entry to `backbones` in globals.yml.",
        )
    return entry


def _of_timm(name: str) -> dict[str, Any] | None:
    from timm.models import get_pretrained_cfg

    try:
        cfg = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        return None
    if cfg is None or not cfg.hf_hub_id:
        return None
    return {
        "source": f"hf-hub:{cfg.hf_hub_id}",
        "architecture": name,
        "naming": "timm_pretrained",
        "licence": cfg.license or "unknown",
        **_facts(name, cfg),
    }


def _facts(name: str, cfg: PretrainedCfg) -> dict[str, Any]:
    """Return what the architecture and its configuration say: arguments, normalisation and width."""
    import timm
    import torch

    # only networks that fix their input know the argument; the others take any size
    init: dict[str, Any] = {"img_size": TILE_PX} if cfg.fixed_input_size else {}
    try:
        with torch.device("meta"), torch.inference_mode():
            network = timm.create_model(name, pretrained=False, num_classes=0, **init).eval()
            width = network(torch.empty(1, 3, TILE_PX, TILE_PX)).shape[-1]
    except (TypeError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"{name} does not take tiles of {TILE_PX} px: {first_line(error)}.",
            f"a backbone for {TILE_PX} px.",
            "Choose another (--params backbone=<name>).",
        ) from error
    return {"init": init, "mean": cfg.mean, "std": cfg.std, "width": width}


def _of_folder(folder: Path) -> dict[str, Any] | None:
    """Read `config.json` as timm writes it beside the weights of a model on the hub."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text())
        cfg = config["pretrained_cfg"]
        arguments = {k: v for k, v in config.get("model_args", {}).items() if k not in {"num_classes", "global_pool"}}
        return {
            "source": str(folder),
            "architecture": config["architecture"],
            "init": arguments,
            "width": config["num_features"],
            "mean": cfg["mean"],
            "std": cfg["std"],
            "licence": cfg.get("license") or "unknown",
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}, which does not describe a timm model ({error}).",
            "architecture, num_features and pretrained_cfg, as timm writes them.",
            "Add an entry to `backbones` in globals.yml and pass the folder as backbone_source.",
        ) from error

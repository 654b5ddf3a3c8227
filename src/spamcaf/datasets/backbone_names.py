"""What a backbone's name stands for: an entry of `backbones`, a name of timm's, or a folder in timm's hub format."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.hub import snapshots
from spamcaf.errors import InputError, first_line, is_fault_of_ours
from spamcaf.histology.backbone import TILE_PX

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

TIMM = "timm/"


def find_entry(name: str, backbones: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the entry that `name` stands for; raise InputError when there is none."""
    if name in backbones:
        return dict(backbones[name])
    folder = Path(os.path.expanduser(name))
    entry = _of_folder(folder) or _of_timm(name.removeprefix(TIMM))
    if entry is None and folder.is_absolute():
        raise InputError(
            f"no config.json in {folder}{'' if os.path.isdir(folder) else ', which is not there'}.",
            "config.json and weights as timm writes them.",
            "Weights alone go with the name of an entry: --params backbone=<name>,backbone_source=<folder or file>.",
        )
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
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"{name} does not take tiles of {TILE_PX} px: {first_line(error)}.",
            f"a backbone for {TILE_PX} px.",
            "Choose another (--params backbone=<name>).",
        ) from error
    return {"init": init, "mean": cfg.mean, "std": cfg.std, "width": width}


def _of_folder(folder: Path) -> dict[str, Any] | None:
    """Read `config.json` as timm writes it beside the weights of a model on the hub."""
    places = (place / "config.json" for place in (folder, *snapshots(folder)))
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        return None
    try:
        config = _require_table(json.loads(path.read_text()))
        cfg, arguments = _require_table(config["pretrained_cfg"]), _require_table(config.get("model_args", {}))
        return {
            "source": str(folder),
            "architecture": config["architecture"],
            "init": {k: v for k, v in arguments.items() if k not in {"num_classes", "global_pool"}},
            "width": config["num_features"],
            "mean": cfg["mean"],
            "std": cfg["std"],
            "licence": cfg.get("license") or "unknown",
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"{path}, which does not describe a timm model ({error}).",
            "architecture, num_features and pretrained_cfg, as timm writes them.",
            "Add an entry to `backbones` in globals.yml and pass the folder as backbone_source.",
        ) from error


def _require_table(value: Any) -> dict[str, Any]:  # noqa: ANN401  whatever JSON holds
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]} in the place of a table")
    return value

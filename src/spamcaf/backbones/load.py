"""The network of a backbone by name: its entry, its architecture, and its weights, strictly loaded, never unpickled."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal
from zipfile import is_zipfile

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spamcaf.backbones.weights import snapshots
from spamcaf.errors import InputError, did_you_mean, first_line, is_fault_of_ours
from spamcaf.histology.backbone import ClassAndMean
from spamcaf.histology.tiles import TILE_PX
from spamcaf.limits import read_json


class BackboneSpec(BaseModel):
    """One entry of `backbones` in globals.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        description="hf-hub:<owner>/<model>, @<revision> to pin it; package:<module>/<file>; a local folder or file"
    )
    architecture: str = Field(description="name of the timm architecture")
    init: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the architecture; a layer is SwiGLUPacked or SiLU"
    )
    width: int = Field(gt=0, description="features per tile")
    pooling: Literal["head", "class_and_mean"] = Field(
        "head", description="head: the network's own (class token, or mean of a convolutional map)"
    )
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mpp: float | None = Field(None, gt=0, description="micrometres per pixel that it was trained at")
    dense: bool = Field(
        False, description="whether features of tiles.dense were shown to lose nothing: used by default"
    )
    licence: str = "unknown"
    sha256: str | None = Field(None, description="of the weight file; refused when it differs")
    naming: Literal["timm", "in_order", "dinov2", "timm_pretrained"] = Field(
        "timm",
        description="how the file names tensors: as timm does now; otherwise, in the same order; as transformers' "
        "Dinov2Model; as timm's own pretrained file of this name",
    )


def find_entry(name: str, backbones: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of `BackboneSpec` for a name, not validated yet; raise InputError when it is unknown.

    It is the name of one of `backbones`, of a pretrained timm model (with or without `timm/`), or a folder with timm's
    config.json.
    """
    if name in backbones:
        return dict(backbones[name])
    folder = Path(os.path.expanduser(name))
    entry = _of_folder(folder) or _of_timm(name.removeprefix("timm/"))
    if entry is not None:
        return entry
    if folder.is_absolute():
        raise InputError(
            f"no config.json in {folder}{'' if os.path.isdir(folder) else ', which is not there'}.",
            "config.json and weights as timm writes them.",
            "Weights alone go with the name of an entry: --params backbone=<name>,backbone_source=<folder or file>.",
        )
    raise InputError(
        f"backbone '{name}'.",
        f"one of {', '.join(backbones)}.",
        f"{did_you_mean(name, backbones)}"
        "Choose one (--params backbone=<name>), name a pretrained timm model (timm/<model>), "
        "or add an entry to `backbones` in globals.yml.",
    )


def _of_timm(name: str) -> dict[str, Any] | None:
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        return None
    if cfg is None or not cfg.hf_hub_id:
        return None
    # only networks that fix their input know the argument; the others take any size
    init: dict[str, Any] = {"img_size": TILE_PX} if cfg.fixed_input_size else {}
    try:
        with torch.device("meta"):
            network = timm.create_model(name, pretrained=False, num_classes=0, **init)
        width = _output_shape(network)[-1]
    except (TypeError, AssertionError, RuntimeError) as error:
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"{name} does not take tiles of {TILE_PX} px: {first_line(error)}.",
            f"a backbone for {TILE_PX} px.",
            "Choose another (--params backbone=<name>).",
        ) from error
    return {
        "source": f"hf-hub:{cfg.hf_hub_id}",
        "architecture": name,
        "naming": "timm_pretrained",
        "licence": cfg.license or "unknown",
        "init": init,
        "mean": cfg.mean,
        "std": cfg.std,
        "width": width,
    }


def _output_shape(network: nn.Module) -> tuple[int, ...]:
    """Return the shape of the features of one 224 px tile; `network` is on torch's meta device, without memory."""
    with torch.device("meta"), torch.inference_mode():
        return tuple(network.eval()(torch.empty(1, 3, TILE_PX, TILE_PX)).shape)


def _of_folder(folder: Path) -> dict[str, Any] | None:
    """Read `config.json` as timm writes it beside the weights of a model on the hub."""
    places = (place / "config.json" for place in (folder, *snapshots(folder)))
    path = next(filter(os.path.isfile, places), None)
    if path is None:
        return None
    try:
        config = _require_table(read_json(path))
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


MISFITS = (RuntimeError, ValueError, OSError, LookupError, AttributeError, TypeError, EOFError, AssertionError)
"""What timm and torch raise where weights, arguments and architecture do not belong together."""


def build(spec: BackboneSpec, path: Path) -> nn.Module:
    """Build the network of an entry and load its weights.

    Parameters
    ----------
    spec
        The entry.
    path
        File of weights, safetensors or torch's format; of the latter tensors alone are read.

    Returns
    -------
    nn.Module
        Frozen, in evaluation mode: (tile, 3, 224, 224) to (tile, `spec.width`), float32.

    Raises
    ------
    InputError
        When the weights do not fit the architecture, or the file is damaged or holds more than tensors.
    """
    try:
        tensors = _read_tensors(path)
        require_width(spec)
        network = _filled(spec, tensors)
    except InputError:
        raise
    except MISFITS as error:
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"{path} does not fit {spec.architecture}: {first_line(error)}",
            "the weights of exactly this architecture.",
            "Check source, architecture and init of the entry in globals.yml.",
        ) from error
    except MemoryError as error:
        raise InputError(
            f"{path}, of {path.stat().st_size} bytes, which takes more memory than there is.",
            "weights that fit into memory.",
            "Use a machine with more memory. If the file should be small, it is damaged: fetch it again.",
        ) from error
    except (UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"{path} is damaged, or holds more than tensors: {first_line(error)}",
            "tensors alone; nothing else is unpickled, since that would run the file's code.",
            "Fetch the file again, or convert it to safetensors where you trust it.",
        ) from error
    # a file may hold half precision; forward passes choose theirs by themselves
    return _pooled(spec, network).float().eval().requires_grad_(False)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, mapped rather than read where its format allows."""
    if path.suffix == ".safetensors":
        return load_file(path)
    # weights_only: a pickle that holds anything but tensors is refused, there is no fallback
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError("no table of tensors by name, as state_dict() gives it")
    return tensors


def _require_plain(tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Raise ValueError unless tensors hold real numbers, fractions where those of `network` do, and finite weights.

    torch loads others too; the first tile would fail, or all features be NaN. Other shapes are left to the strict load.
    """
    state, weights = network.state_dict(), dict(network.named_parameters())
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"tensor {name} is sparse, quantised, complex or without values")
        if name not in state or state[name].shape != tensor.shape:
            continue
        if state[name].is_floating_point() and not tensor.is_floating_point():
            raise ValueError(f"tensor {name} is of {tensor.dtype}")
        if name in weights and not torch.isfinite(tensor).all():
            raise ValueError(f"NaN or Inf in tensor {name}")


def create(spec: BackboneSpec, **more: Any) -> nn.Module:  # noqa: ANN401  timm's arguments
    """Return timm's network of `spec`, on torch's current device, with weights of no meaning."""
    import timm

    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": torch.nn.SiLU}
    init = dict(spec.init)
    for name, value in spec.init.items():
        if name.endswith("_layer"):  # YAML gives the name of a layer's class
            if value not in layers:
                raise ValueError(f"layer {value} is none of {', '.join(layers)}")
            init[name] = layers[value]
    # an order of tensors is that of the whole file, its classifier included
    classes = {} if spec.naming in {"in_order", "timm_pretrained"} else {"num_classes": 0}
    return timm.create_model(spec.architecture, **{"pretrained": False, **classes, **init, **more})


def _pooled(spec: BackboneSpec, network: nn.Module) -> nn.Module:
    """Return the network that gives one vector per tile: without classifier, and pooled as `spec` asks."""
    if spec.naming in {"in_order", "timm_pretrained"}:
        network.reset_classifier(0)  # type: ignore[operator]
    return network if spec.pooling == "head" else ClassAndMean(network)


def require_width(spec: BackboneSpec) -> None:
    """Raise InputError unless the network gives `spec.width` features of a 224 px tile: tried without memory."""
    with torch.device("meta"):
        network = _pooled(spec, create(spec))
    try:
        shape = _output_shape(network)
    except AssertionError as error:
        raise InputError(
            f"{spec.architecture} does not take tiles of {TILE_PX} px: {error}.",
            f"a backbone for {TILE_PX} px.",
            f"Set img_size: {TILE_PX} in the init of its entry where the architecture has it, or take another.",
        ) from error
    if shape != (1, spec.width):
        found = f"{spec.architecture} gives {shape[-1]} features."
        raise InputError(found, f"{spec.width}.", "Correct width in globals.yml.")


def _filled(spec: BackboneSpec, tensors: dict[str, Tensor]) -> nn.Module:
    if spec.naming == "timm_pretrained":
        # timm's own way, strict too: it brings older names and other input sizes into today's form
        network = create(spec, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
        _require_plain(tensors, network)
        return network
    renamed = from_dinov2(tensors) if spec.naming == "dinov2" else tensors
    # on the meta device, without memory, first; tables that a network computes when it is built are in no file, and
    # would stay empty there: such a network is built again
    for device in ("meta", "cpu"):
        with torch.device(device):
            network = create(spec)
        if spec.naming == "in_order":
            renamed = dict(zip(network.state_dict(), tensors.values(), strict=True))
        _require_plain(renamed, network)
        network.load_state_dict(renamed, strict=True, assign=True)
        if not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
            break
    return network


DINOV2_NAMES: tuple[tuple[str, str], ...] = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)
"""Names of transformers' Dinov2Model and timm's for the same tensors; query, key and value are one tensor in timm."""


def from_dinov2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a Dinov2Model's tensors under timm's names; other names stay, for the strict load to refuse.

    The mask token, used in training alone, is dropped. Raise KeyError when a block lacks its query, key or value.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name == "embeddings.mask_token" or re.search(r"\.attention\.attention\.(key|value)\.", name):
            continue
        if ".attention.attention.query." in name:
            parts = [tensors[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            name, tensor = name.replace(".attention.attention.query.", ".attn.qkv."), torch.cat(parts)  # noqa: PLW2901
        for pattern, replacement in DINOV2_NAMES:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        renamed[name] = tensor
    return renamed

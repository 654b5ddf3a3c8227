"""Weights load strictly and never run code; every shipped backbone is that of its model card; timm's names load too."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
import yaml
from kedro.io import DatasetError
from safetensors.torch import save_file

from spamcaf.backbones.load import BackboneSpec, build, create, from_dinov2, require_width
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.errors import InputError

GLOBALS = Path(__file__).parents[2] / "conf" / "base" / "globals.yml"
SHIPPED: dict[str, dict[str, Any]] = yaml.safe_load(GLOBALS.read_text())["backbones"]
OPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CARDS = {
    "efficientnet_lite0": (4.652e6, 1280, 0, 0, ((0.5,) * 3, (0.5,) * 3)),
    "uni": (303.35e6, 1024, 196, 1, IMAGENET),
    "uni2-h": (681.4e6, 1536, 256, 9, IMAGENET),
    "h-optimus-0": (1134.8e6, 1536, 256, 5, OPTIMUS),
    "h-optimus-1": (1134.8e6, 1536, 256, 5, OPTIMUS),
    "virchow2": (631.2e6, 2560, 256, 5, IMAGENET),
    "gigapath": (1134.95e6, 1536, 196, 1, IMAGENET),
    "phikon-v2": (303.35e6, 1024, 196, 1, IMAGENET),
    "h0-mini": (85.7e6, 1536, 256, 5, OPTIMUS),
}
"""Parameters, width, patch tokens, tokens before them (class and registers), normalisation."""


def spec_of(name: str) -> BackboneSpec:
    return BackboneDataset(name=name, backbones=SHIPPED).spec()


def test_the_shipped_names_are_those_of_the_cards() -> None:
    assert set(SHIPPED) == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_a_shipped_entry_is_the_network_of_its_card(name: str) -> None:
    n_parameters, width, n_patches, n_prefix, normalisation = CARDS[name]
    spec = spec_of(name)
    assert spec.width == width
    assert (spec.mean, spec.std) == normalisation
    with torch.device("meta"):
        network = create(spec)
        if n_patches:
            assert network.forward_features(torch.empty(1, 3, 224, 224)).shape[1] == n_patches + n_prefix
            assert network.num_prefix_tokens == n_prefix
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(n_parameters, rel=0.01)
    require_width(spec)


@pytest.mark.parametrize("name", CARDS)
def test_every_shipped_entry_states_its_licence(name: str) -> None:
    spec = spec_of(name)
    assert spec.licence != "unknown"


VIT = {"source": "", "architecture": "test_vit", "width": 64, "init": {"img_size": 224}}


def vit(**changes: Any) -> BackboneSpec:
    return BackboneSpec.model_validate(VIT | changes)


@pytest.fixture
def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


@pytest.mark.parametrize("name", ["uni", "virchow2"])
def test_another_width_than_the_networks_is_refused_before_any_weight_is_loaded(name: str) -> None:
    with pytest.raises(InputError, match=f"gives {CARDS[name][1]} features"):
        require_width(spec_of(name).model_copy(update={"width": 1000}))


def test_another_tile_size_is_refused() -> None:
    with pytest.raises(InputError, match="does not take tiles of 224 px"):
        require_width(vit(architecture="vit_tiny_patch16_384", width=192, init={}))


@pytest.mark.parametrize("layer", ["Mlp", "os.system", "torch.nn.SiLU"])
def test_only_the_known_layers_can_be_named(weights: Path, layer: str) -> None:
    with pytest.raises(InputError, match="none of SwiGLUPacked, SiLU"):
        build(vit(init={"img_size": 224, "mlp_layer": layer}), weights)


def test_class_and_mean_leave_the_registers_out(weights: Path, tmp_path: Path) -> None:
    init = {"img_size": 224, "reg_tokens": 4}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = timm.create_model("test_vit", num_classes=0, **init).eval()
    save_file(network.state_dict(), tmp_path / "registers.safetensors")
    both = build(vit(init=init, pooling="class_and_mean", width=128), tmp_path / "registers.safetensors")
    pixels = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        tokens = network.forward_features(pixels)
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=1)
        torch.testing.assert_close(both(pixels), expected)
        torch.testing.assert_close(both(pixels)[:, :64], network(pixels))


def key(folder: Path, **changes: Any) -> str:
    entry = VIT | {"source": str(folder)} | changes
    return BackboneDataset(name="it", backbones={"it": entry}).load().identity.key


def test_pooling_normalisation_and_arguments_change_the_key(weights: Path) -> None:
    keys = [
        key(weights.parent),
        key(weights.parent, pooling="class_and_mean", width=128),
        key(weights.parent, mean=[0.5, 0.5, 0.5]),
        key(weights.parent, std=[0.5, 0.5, 0.5]),
        key(weights.parent, init={"img_size": 224, "dynamic_img_size": True}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(weights.parent) == keys[0]


def test_half_precision_weights_are_brought_to_float32(weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    halves = {name: tensor.half() for name, tensor in load_file(weights).items()}
    save_file(halves, tmp_path / "half.safetensors")
    network = build(vit(), tmp_path / "half.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_tables_that_no_file_holds_are_computed(tmp_path: Path) -> None:
    """A rotary embedding is a buffer outside the state dict: on the meta device it would stay empty."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("eva02_tiny_patch14_224", num_classes=0, depth=1).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert {name for name, _ in network.named_buffers()} - set(network.state_dict())
    spec = vit(architecture="eva02_tiny_patch14_224", width=192, init={"depth": 1})
    built = build(spec, tmp_path / "model.safetensors")
    pixels = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(built(pixels), network(pixels))


TIMM_TO_DINOV2 = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("blocks.", "encoder.layer."),
    (".attn.proj.", ".attention.output.dense."),
    (".ls1.gamma", ".layer_scale1.lambda1"),
    (".ls2.gamma", ".layer_scale2.lambda1"),
]


def as_dinov2(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name tensors as a saved Dinov2Model does."""
    renamed = {"embeddings.mask_token": torch.zeros(1, 64)}
    for old, tensor in tensors.items():
        name = f"layernorm.{old.removeprefix('norm.')}" if old.startswith("norm.") else old
        for ours, theirs in TIMM_TO_DINOV2:
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = values.clone()
        else:
            renamed[name] = tensor
    return renamed


@pytest.fixture
def dinov2(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_vit", num_classes=0, img_size=224, init_values=1.0).eval()
        for tensor in network.parameters():
            torch.nn.init.normal_(tensor, std=0.3)
    save_file(as_dinov2(network.state_dict()), tmp_path / "dinov2.safetensors")
    return tmp_path / "dinov2.safetensors", network


DINOV2 = {"init": {"img_size": 224, "init_values": 1.0}, "naming": "dinov2"}


def test_weights_of_a_dinov2_model_are_renamed(dinov2: tuple[Path, torch.nn.Module]) -> None:
    path, network = dinov2
    built = build(vit(**DINOV2), path)
    pixels = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(built(pixels), network(pixels))


@pytest.mark.parametrize("lost", ["layernorm.bias", "encoder.layer.1.attention.attention.key.weight"])
def test_a_dinov2_model_without_one_of_its_tensors_is_refused(
    dinov2: tuple[Path, torch.nn.Module], tmp_path: Path, lost: str
) -> None:
    tensors = as_dinov2(dinov2[1].state_dict())
    del tensors[lost]
    save_file(tensors, tmp_path / "lacking.safetensors")
    with pytest.raises(InputError, match="does not fit"):
        build(vit(**DINOV2), tmp_path / "lacking.safetensors")


def test_a_tensor_of_unknown_name_is_left_for_the_strict_load_to_refuse() -> None:
    assert list(from_dinov2({"pooler.weight": torch.zeros(1)})) == ["pooler.weight"]


@pytest.mark.parametrize("name", ["timm/vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_dinov2.lvd142m"])
def test_a_pretrained_name_of_timm_is_a_backbone_of_the_hub(name: str) -> None:
    spec = BackboneDataset(name=name, backbones={}).spec()
    assert spec.source == "hf-hub:timm/vit_small_patch14_dinov2.lvd142m"
    assert spec.width == 384
    assert (spec.mean, spec.std) == IMAGENET
    require_width(spec)


def test_the_weights_of_a_timm_name_load_by_timms_own_rules(tmp_path: Path) -> None:
    """At another input size than the file's, and with its classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    dataset = BackboneDataset(name="timm/test_vit.r160_in1k", backbones={}, source=str(tmp_path))
    backbone = dataset.load()
    assert backbone.width == 64
    with torch.inference_mode():
        assert backbone.network(torch.rand(1, 3, 224, 224)).shape == (1, 64)
    tensors = timm.create_model("test_vit").state_dict()
    del tensors["norm.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DatasetError, match="does not fit"):
        dataset.load()


def test_a_folder_in_timms_format_is_a_backbone(weights: Path) -> None:
    config = {
        "architecture": "test_vit",
        "num_features": 64,
        "model_args": {"img_size": 224, "num_classes": 0},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "license": "mit"},
    }
    (weights.parent / "config.json").write_text(json.dumps(config))
    backbone = BackboneDataset(name=str(weights.parent), backbones={}).load()
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.identity.licence == "mit"
    (weights.parent / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(InputError, match="does not describe a timm model"):
        BackboneDataset(name=str(weights.parent), backbones={}).spec()


@pytest.mark.parametrize("config", ["[]", '{"pretrained_cfg": [], "num_features": 3}', "3", "{"])
def test_a_config_of_another_form_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match="does not describe a timm model"):
        BackboneDataset(name=str(tmp_path), backbones={}).spec()


def test_a_folder_without_a_config_is_refused_with_how_to_name_its_weights(weights: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json in .*backbone=<name>,backbone_source=<folder or file>"):
        BackboneDataset(name=str(weights.parent), backbones={}).spec()


def test_a_single_file_is_a_source(weights: Path) -> None:
    dataset = BackboneDataset(name="it", backbones={"it": VIT}, source=str(weights))
    assert dataset.load().identity.source == str(weights)
    assert dataset.probe(1.0).n_bytes == weights.stat().st_size


GOLDEN = 35.2673
"""What the packaged network makes of a ramp, so that a change in timm or torch is noticed."""


def test_the_packaged_weights_load_strictly_and_give_the_same(lite0: dict[str, Any], load: Any) -> None:
    backbone = load(lite0)
    assert backbone.identity.weights_sha256 == lite0["sha256"]
    assert backbone.width == 1280
    assert not backbone.network.training
    assert not any(p.requires_grad for p in backbone.network.parameters())
    pixels = torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.inference_mode():
        features = backbone.network(pixels)
    assert features.shape == (1, 1280)
    weights = torch.arange(1280) / 1280
    assert (features[0] @ weights).item() == pytest.approx(GOLDEN, rel=1e-3)


def test_weights_other_than_those_pinned_are_refused(lite0: dict[str, Any], refused: Any) -> None:
    assert "579344248a93" in refused(lite0 | {"sha256": "0" * 64})


def test_unknown_names_list_the_known(lite0: dict[str, Any], refused: Any) -> None:
    assert "one of it." in refused(lite0, name="unni")


@pytest.mark.parametrize("wrong", [{"widht": 3}, {"width": 0}, {"width": "wide"}])
def test_a_wrong_entry_is_refused(wrong: dict[str, Any], lite0: dict[str, Any], refused: Any) -> None:
    assert "globals.yml" in refused(lite0 | wrong)


def test_plain_torch_weights_load_too(
    tmp_path: Path, tiny: dict[str, Any], tensors: dict[str, torch.Tensor], load: Any
) -> None:
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert load(tiny, tmp_path).width == 64


def test_another_width_than_stated_is_refused(folder: Path, tiny: dict[str, Any], refused: Any) -> None:
    assert "64 features" in refused(tiny | {"width": 1024}, folder)


def lacking(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["norm.weight"]


def widened(tensors: dict[str, torch.Tensor]) -> None:
    tensors["norm.weight"] = torch.zeros(65)


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["extra"] = tensors.pop("norm.weight")


@pytest.mark.parametrize("change", [lacking, widened, renamed])
def test_weights_of_another_network_are_refused(
    tmp_path: Path, change: Any, tiny: dict[str, Any], tensors: dict[str, torch.Tensor], refused: Any
) -> None:
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert "does not fit test_vit" in refused(tiny, tmp_path)


@pytest.mark.parametrize("changed", [{"architecture": "no_such_net"}, {"init": {"no_such_argument": 1}}])
def test_an_architecture_that_cannot_be_built_is_refused(
    folder: Path, changed: dict[str, Any], tiny: dict[str, Any], refused: Any
) -> None:
    assert "does not fit" in refused(tiny | changed, folder)


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, tiny: dict[str, Any], refused: Any) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"norm.weight": Trap(sprung)}, tmp_path / "pytorch_model.bin")
    assert "more than tensors" in refused(tiny, tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    assert "Found: " in refused(tiny, tmp_path)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"no weights" * 50])
def test_damaged_weights_are_refused(
    tmp_path: Path, name: str, content: bytes, tiny: dict[str, Any], refused: Any
) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in refused(tiny, tmp_path)


@pytest.mark.parametrize("naming", ["timm", "in_order", "dinov2"])
@pytest.mark.parametrize("content", [[1], {"a": {"b": torch.zeros(1)}}, torch.zeros(1)])
def test_a_file_without_a_table_of_tensors_is_refused(
    tmp_path: Path, naming: str, content: object, tiny: dict[str, Any], refused: Any
) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "no table of tensors" in refused(tiny | {"naming": naming}, tmp_path)


def test_a_fault_of_the_program_is_not_blamed_on_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any], load: Any
) -> None:
    monkeypatch.delattr(timm, "create_model")
    with pytest.raises(DatasetError) as caught:
        load(tiny, folder)
    assert InputError.within(caught.value) is None
    assert isinstance(caught.value.__cause__, AttributeError)


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "complex": lambda tensor: tensor.to(torch.complex64),
    "sparse": lambda tensor: tensor.to_sparse(),
    "without values": lambda tensor: tensor.to("meta"),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8),
    "whole numbers": lambda tensor: tensor.long(),
    "NaN": lambda tensor: tensor * torch.nan,
}


@pytest.mark.parametrize("naming", ["timm", "in_order", "timm_pretrained"])
@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_tensors_that_torch_loads_and_no_tile_passes_are_refused(
    tmp_path: Path, naming: str, change: Any, tiny: dict[str, Any], tensors: dict[str, torch.Tensor], refused: Any
) -> None:
    if naming != "timm":
        tensors = timm.create_model("test_vit", img_size=224).state_dict()
    tensors["norm.weight"] = change(tensors["norm.weight"])
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert "does not fit test_vit" in refused(tiny | {"naming": naming}, tmp_path)


def test_a_tensor_that_declares_more_numbers_than_it_stores_costs_no_time(
    tmp_path: Path, tiny: dict[str, Any], tensors: dict[str, torch.Tensor], refused: Any
) -> None:
    tensors["norm.weight"] = torch.zeros(1).expand(10**9, 10**9)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert "does not fit test_vit" in refused(tiny, tmp_path)


def test_a_pickle_that_takes_more_than_it_was_given_is_refused(
    tmp_path: Path, tiny: dict[str, Any], refused: Any
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x020.")  # pops from an empty stack
    assert "pytorch_model.bin" in refused(tiny, tmp_path)


def test_weights_that_take_more_memory_than_there_is_are_refused(
    folder: Path, tiny: dict[str, Any], refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spamcaf.backbones.load.load_file", Mock(side_effect=MemoryError))
    assert "takes more memory than there is" in refused(tiny, folder)


def test_arguments_that_no_network_takes_are_refused(folder: Path, tiny: dict[str, Any], refused: Any) -> None:
    assert "does not fit" in refused(tiny | {"init": {"img_size": []}}, folder)

"""Fine-tuning of the backbone's last blocks: what it starts from, that it learns, and that a model of it comes back."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from spamcaf.errors import InputError
from spamcaf.histology.backbone import ClassAndMean, FeaturesAndMaps, LastBlocks
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.fitted import SpamcafModel
from spamcaf.model.predict import predict_spamcaf
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.sections.sites import Measured, Sites

N_SPOTS, N_GENES, VIEWS = 60, 30, 2
NETWORK = NetworkSettings(width=16, heads=2, depth=1, image_components=8)
FIT = FitSettings(epochs=6, finetune=1, finetune_rate=0.5, n_gene_processes=0)
COMPUTE = ComputeSettings(device="cpu", threads=1)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, img_size=224).eval().requires_grad_(False)


NETWORKS = {
    "convolutional": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0).eval(),
    "token": vit,
    "class and mean": lambda: ClassAndMean(vit()),
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_through_the_last_blocks_are_the_features(kind: str, n: int) -> None:
    network = NETWORKS[kind]()
    both = FeaturesAndMaps(network, n)
    tiles = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features, output = network(tiles), both(tiles)
        maps = output[:, features.shape[1] :].unflatten(1, both.maps)
        assert torch.equal(output[:, : features.shape[1]], features)
        assert torch.allclose(LastBlocks(network, n)(maps), features, atol=1e-6)


def test_other_networks_are_refused() -> None:
    with pytest.raises(InputError, match=r"fit\.finetune=1 with a ResNet"):
        LastBlocks(timm.create_model("resnet18", num_classes=0), 1)
    with pytest.raises(InputError, match="more blocks"):
        LastBlocks(vit(), 99)
    with pytest.raises(InputError, match="MobileNetV3"):
        FeaturesAndMaps(timm.create_model("mobilenetv3_small_050", num_classes=0), 1)


def test_a_network_with_something_between_its_parts_is_refused() -> None:
    network = vit()
    FeaturesAndMaps(network, 1)

    class Other(type(network)):  # type: ignore[misc]
        def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
            return 2 * super().forward_head(x, pre_logits)

    network.__class__ = Other
    with pytest.raises(InputError, match=r"fit\.finetune=1 with a Other"):
        FeaturesAndMaps(network, 1)


def test_batch_statistics_stay_those_of_the_backbone() -> None:
    last = LastBlocks(NETWORKS["convolutional"](), 1)
    last.train()
    before = {name: value.clone() for name, value in last.named_buffers()}
    last(torch.rand(4, 192, 7, 7))
    assert before
    assert all(torch.equal(value, before[name]) for name, value in last.named_buffers())


def section(network: nn.Module) -> tuple[Measured, Sites]:
    """Return spots whose expression follows their maps, and the same places as sites."""
    rng = np.random.default_rng(0)
    both = FeaturesAndMaps(network, 1)
    tiles = torch.from_numpy(rng.random((N_SPOTS, 3, 1, 1)).astype(np.float32)) * torch.rand(
        1, 3, 224, 224, generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        output = both(tiles).numpy()
    width = output.shape[1] - int(np.prod(both.maps))
    target, maps = output[:, :width], output[:, width:].reshape(N_SPOTS, 1, *both.maps).astype(np.float16)
    xy_um = np.stack(np.divmod(np.arange(N_SPOTS), 10), axis=1) * 100.0
    sites = Sites(xy_um, target, np.repeat(target[:, None], 9, axis=1), maps=np.repeat(maps, VIEWS, axis=1))
    signal = target[:, :3] @ rng.normal(size=(3, N_GENES)) / target[:, :3].std()
    counts = rng.poisson(20 * np.exp(np.clip(signal, -2, 2)))
    depth = counts.sum(axis=1).astype(np.float64)
    expression = np.log1p(1e4 * counts / depth[:, None]).astype(np.float32)
    return Measured(sites, expression, depth), sites


def fitted(measured: Measured, network: nn.Module, fit: FitSettings) -> SpamcafModel:
    part = TrainingSection(measured, np.arange(N_SPOTS) % 2)
    last = LastBlocks(network, fit.finetune) if fit.finetune else None
    return fit_spamcaf(part, [], 100.0, fit, NETWORK, COMPUTE, 0, last_blocks=last).model


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Measured, SpamcafModel]:
    network = vit()
    measured, _ = section(network)
    return network, measured, fitted(measured, network, FIT)


def test_blocks_are_trained_in_each_fold_and_the_given_ones_stay(
    case: tuple[nn.Module, Measured, SpamcafModel],
) -> None:
    network, _, model = case
    given = LastBlocks(network, 1).state_dict()
    assert given.keys() == LastBlocks(vit(), 1).state_dict().keys()
    assert all(torch.equal(value, given[name]) for name, value in LastBlocks(vit(), 1).state_dict().items())
    name = next(name for name, value in given.items() if value.ndim == 2)
    own = [tensors[f"last_blocks.{name}"] for tensors in model.networks]
    assert not np.allclose(own[0], given[name].numpy(), atol=1e-6)
    assert not np.allclose(own[0], own[1], atol=1e-6)


def test_a_stored_model_predicts_the_same(case: tuple[nn.Module, Measured, SpamcafModel]) -> None:
    _, measured, model = case
    again = SpamcafModel.from_tensors(model.to_tensors(), model.metadata())
    weights = replace(model.within_section.stacking, network_weight=np.ones(model.sizes["score"]))
    found = []
    for one in (model, again):
        mode = replace(one.within_section, stacking=weights)
        whole = replace(one, within_section=mode)
        sites = measured.sites.at(slice(0, 20))
        found.append(predict_spamcaf(whole, measured, sites, COMPUTE, LastBlocks(vit(), 1)).mean)
    assert np.array_equal(*found)


def test_it_begins_as_the_network_of_the_frozen_backbone(case: tuple[nn.Module, Measured, SpamcafModel]) -> None:
    network, measured, _ = case
    barely = fitted(measured, network, FIT.model_copy(update={"finetune_rate": 1e-9, "epochs": 1}))
    weights = barely.networks[0]
    given = LastBlocks(network, 1).state_dict()
    for name, value in given.items():
        np.testing.assert_allclose(weights[f"last_blocks.{name}"], value.numpy(), atol=1e-5)


def test_the_process_alone_trains_no_blocks() -> None:
    with pytest.raises(ValueError, match="use_network"):
        FitSettings(finetune=1, use_network=False)

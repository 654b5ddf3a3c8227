"""The map of a network's last layer, of tokens and of convolutions; what gives no square map is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn

from spamcaf.histology.backbone import BackboneIdentity, ClassAndMean, FeatureMap

PIXELS = torch.arange(2 * 3 * 224 * 224).reshape(2, 3, 224, 224) % 251 / 250


class Last(nn.Module):
    """A network whose last layer is what it is made of."""

    num_prefix_tokens = 2

    def __init__(self, features: Tensor, output_fmt: str | None = None) -> None:
        super().__init__()
        self.features, self.output_fmt = features, output_fmt

    def forward_features(self, pixels: Tensor) -> Tensor:
        return self.features


def test_tokens_become_a_map_row_by_row_without_their_prefix() -> None:
    tokens = torch.arange(11.0).reshape(1, 11, 1)
    found = FeatureMap(Last(tokens))(PIXELS)
    assert found[0, ..., 0].tolist() == [[2, 3, 4], [5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("output_fmt", [None, "NCHW", "NHWC"])
def test_channels_of_a_convolutional_map_come_last(output_fmt: str | None) -> None:
    features = torch.randn(2, 5, 7, 7)
    given = features.permute(0, 2, 3, 1) if output_fmt == "NHWC" else features
    assert torch.equal(FeatureMap(Last(given, output_fmt))(PIXELS), features.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 10, 4), "8 patch tokens are no square"),
        (torch.zeros(1, 4, 7, 6), "no square map"),
        (torch.zeros(1, 4), r"features of shape \(1, 4\) are no square map"),
    ],
)
def test_what_is_no_square_map_is_refused(features: Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        FeatureMap(Last(features))(PIXELS)


def test_a_network_without_a_last_layer_to_read_is_refused() -> None:
    with pytest.raises(TypeError, match="Flatten gives no map of features"):
        FeatureMap(nn.Flatten())(PIXELS)


def test_class_and_mean_are_token_and_mean_of_the_patches_and_keep_the_map() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_vit", num_classes=0, img_size=224, reg_tokens=2).eval()
    both = ClassAndMean(network)
    with torch.inference_mode():
        tokens = network.forward_features(PIXELS)
        assert both.num_prefix_tokens == 3
        torch.testing.assert_close(both(PIXELS), torch.cat([tokens[:, 0], tokens[:, 3:].mean(dim=1)], dim=1))
        assert torch.equal(FeatureMap(both)(PIXELS), FeatureMap(network)(PIXELS))


@pytest.mark.parametrize("changed", [{"name": "b"}, {"weights_sha256": "1" * 64}, {"configuration": "d"}])
def test_name_weights_and_configuration_change_the_key_and_nothing_else(changed: dict[str, str]) -> None:
    identity = BackboneIdentity("a", "here", "0" * 64, "c", 3, "MIT")
    assert replace(identity, **changed).key != identity.key
    assert replace(identity, source="there", licence="none", revision="r", mpp=0.5).key == identity.key

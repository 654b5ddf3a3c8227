from __future__ import annotations

import pytest
import torch

from spamcaf.model.released import GatedAttentionPooling, ReleasedNetwork, ReleasedShape

N_SITES, N_FEATURES, N_GENES = 6, 12, 5


@pytest.fixture
def network() -> ReleasedNetwork:
    torch.manual_seed(0)
    return ReleasedNetwork(ReleasedShape(N_FEATURES, N_GENES))


@pytest.fixture
def image_features() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(N_SITES, N_FEATURES), torch.randn(N_SITES, N_FEATURES)


def test_what_is_used_of_the_released_network_is_half_of_its_26_2_million_parameters() -> None:
    with torch.device("meta"):
        network = ReleasedNetwork(ReleasedShape(1024, 1000))
    n = sum(parameter.numel() for parameter in network.parameters())
    assert n == pytest.approx(0.52 * 26.2e6, rel=0.005)


def test_every_parameter_learns(network: ReleasedNetwork, image_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    (network(*image_features) - 1).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().sum() < 1e-6]
    assert idle == []


def test_expression_is_never_below_zero(
    network: ReleasedNetwork, image_features: tuple[torch.Tensor, torch.Tensor]
) -> None:
    out = network.eval()(*image_features)
    assert out.shape == (N_SITES, N_GENES)
    assert out.min() == 0
    assert out.max() > 0


def test_both_pictures_speak(network: ReleasedNetwork, image_features: tuple[torch.Tensor, torch.Tensor]) -> None:
    network.eval()
    tile, window = image_features
    before = network(tile, window)
    assert not torch.allclose(network(tile + 1, window.flip(0)), before)
    assert not torch.allclose(network(tile.flip(0), window), before)
    assert not torch.allclose(network(tile, window.flip(0)), before)


def test_pooling_is_a_weighted_mean_of_the_tokens() -> None:
    torch.manual_seed(0)
    pooling = GatedAttentionPooling(width=4, hidden=8, dropout=0.25).eval()
    tokens = torch.randn(7, 2, 4)
    pooled = pooling(tokens)
    share = (pooled - tokens[:, 1]) / (tokens[:, 0] - tokens[:, 1])  # of the first token, the same in every feature
    torch.testing.assert_close(share, share[:, :1].expand(-1, 4), atol=1e-4, rtol=1e-3)
    assert ((share > 0) & (share < 1)).all()
    assert share[:, 0].std() > 1e-4
    torch.testing.assert_close(pooling(tokens.flip(1)), pooled)

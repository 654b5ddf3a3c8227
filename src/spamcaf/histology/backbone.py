"""A backbone: network, its own normalisation and its identity, as one frozen value, and poolings of its last layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class ClassAndMean(nn.Module):
    """A vision transformer's class token beside the mean of its patch tokens, (tile, 2 x token width)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (tile, feature) for (tile, 3, 224, 224); register tokens are left out."""
        tokens = self.forward_features(pixels)
        return torch.cat([tokens[:, 0], tokens[:, self.num_prefix_tokens :].mean(dim=1)], dim=-1)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return (tile, token, width), the prefix tokens first."""
        tokens: Tensor = self.network.forward_features(pixels)  # type: ignore[operator]
        return tokens

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the patches: class and registers."""
        return int(self.network.num_prefix_tokens)  # type: ignore[arg-type]


class FeatureMap(nn.Module):
    """The last layer's map of a backbone's network: (tile, 3, 224, 224) -> (tile, row, column, feature).

    Of a vision transformer these are its patch tokens; of a convolutional network, what it averages over the tile.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the map; raise TypeError where the network gives none."""
        if not hasattr(self.network, "forward_features"):
            raise TypeError(f"{type(self.network).__name__} gives no map of features")
        features = self.network.forward_features(pixels)  # type: ignore[operator]
        if getattr(self.network, "output_fmt", None) == "NHWC":  # timm's word for it, of Swin transformers and others
            features = features.permute(0, 3, 1, 2)
        return as_map(features, getattr(self.network, "num_prefix_tokens", 0))


def as_map(features: Tensor, n_prefix: int) -> Tensor:
    """Return (tile, row, column, feature) of tokens (tile, token, feature) or of a map (tile, feature, row, column)."""
    if features.ndim == 4:  # noqa: PLR2004  a convolutional network's
        if features.shape[2] != features.shape[3]:
            raise TypeError(f"features of shape {tuple(features.shape)} are no square map")
        return features.permute(0, 2, 3, 1)
    if features.ndim != 3:  # noqa: PLR2004
        raise TypeError(f"features of shape {tuple(features.shape)} are no map")
    patches = features[:, n_prefix:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise TypeError(f"{patches.shape[1]} patch tokens are no square")
    return patches.unflatten(1, (side, side))


TILE_PX = 224
"""Width of the backbone's input in pixels."""


@dataclass(frozen=True)
class BackboneIdentity:
    """What a backbone is, for keys and records: two backbones of one identity give the same features.

    `revision` is the hub's commit, where the weights came from there; `mpp` the micrometres per pixel that the
    backbone was trained at, where that is known.
    """

    name: str
    source: str
    weights_sha256: str
    configuration: str
    width: int
    licence: str
    revision: str | None = None
    mpp: float | None = None

    @property
    def key(self) -> str:
        """Name, weights and configuration (architecture, its arguments, pooling, normalisation) as one short text."""
        return f"{self.name}:{self.weights_sha256[:16]}:{self.configuration}"


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor: (tile, 3, 224, 224) RGB in 0..1 -> (tile, feature).

    `mean` and `std` normalise each channel; the network pools its tokens itself.
    """

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: BackboneIdentity

    @property
    def width(self) -> int:
        """Features per tile."""
        return self.identity.width

"""A backbone: network, its own normalisation and its identity, as one frozen value, and poolings of its last layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BackboneIdentity:
    """Identity of a backbone, for keys and records: two backbones of one identity give the same features."""

    name: str
    source: str
    weights_sha256: str
    configuration: str  # hash of architecture, its arguments, pooling and normalisation
    width: int  # features per tile
    licence: str
    revision: str | None = None  # commit of the hub, where the weights came from there
    mpp: float | None = None  # micrometres per pixel that it was trained at, where that is known

    @property
    def key(self) -> str:
        """Name, weights and configuration as one short text."""
        return f"{self.name}:{self.weights_sha256[:16]}:{self.configuration}"


@dataclass(frozen=True)
class Backbone:
    """A frozen network: (tile, 3, 224, 224) RGB in 0..1, then normalised by `mean` and `std`, -> (tile, feature)."""

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: BackboneIdentity

    @property
    def width(self) -> int:
        """Features per tile."""
        return self.identity.width


class ClassAndMean(nn.Module):
    """A vision transformer's class token beside the mean of its patch tokens, register tokens left out.

    (tile, 3, 224, 224) -> (tile, 2 x token width).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:  # noqa: D102
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
    """The map of a network's last layer: (tile, 3, 224, 224) -> (tile, row, column, feature).

    Of a vision transformer these are its patch tokens; of a convolutional network, what it averages over the tile.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the map; raise TypeError where the network has none."""
        if not hasattr(self.network, "forward_features"):
            raise TypeError(f"{type(self.network).__name__} gives no map of features")
        features = self.network.forward_features(pixels)  # type: ignore[operator]
        if features.ndim == 3:  # noqa: PLR2004  tokens
            patches = features[:, getattr(self.network, "num_prefix_tokens", 0) :]
            side = round(patches.shape[1] ** 0.5)
            if side * side != patches.shape[1]:
                raise TypeError(f"{patches.shape[1]} patch tokens are no square")
            return patches.unflatten(1, (side, side))
        is_map = features.ndim == 4  # noqa: PLR2004
        # channels come first, but in those networks that timm marks so (Swin transformers and others)
        if is_map and getattr(self.network, "output_fmt", None) != "NHWC":
            features = features.permute(0, 2, 3, 1)
        if not is_map or features.shape[1] != features.shape[2]:
            raise TypeError(f"features of shape {tuple(features.shape)} are no square map")
        return features

"""What is taken of a network's last layer: its own pooled output, two poolings side by side, or the map itself."""

from __future__ import annotations

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

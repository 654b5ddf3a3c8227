"""A backbone: network, its own normalisation and its identity, as one frozen value, and poolings of its last layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from spamcaf.errors import InputError
from spamcaf.histology.tiles import TILE_PX
from spamcaf.names import NO_IMAGE


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
    dense: bool = False  # whether dense features (`tiles.dense`) were shown to lose nothing

    @property
    def key(self) -> str:
        """Name, weights and configuration as one short text."""
        return f"{self.name}:{self.weights_sha256[:16]}:{self.configuration}"


def blind_backbone() -> Backbone:
    """Return what stands in the place of a backbone where there is no image: one feature, which is 0 everywhere."""
    nothing = BackboneIdentity(NO_IMAGE, NO_IMAGE, NO_IMAGE, NO_IMAGE, 1, NO_IMAGE)
    return Backbone(nn.Identity(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), nothing)


@dataclass(frozen=True)
class Backbone:
    """A frozen network: (tile, 3, 224, 224) RGB in 0..1, then normalised by `mean` and `std`, -> (tile, feature)."""

    network: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    identity: BackboneIdentity
    maps: tuple[int, ...] = ()  # shape of the maps that the network gives, flat, behind a tile's features, if any

    @property
    def n_outputs(self) -> int:
        """Numbers that the network gives per tile."""
        return self.width + (math.prod(self.maps) if self.maps else 0)

    def with_maps(self, n_last_blocks: int) -> Self:
        """Return the backbone that gives the maps before its last blocks, too, see `FeaturesAndMaps`."""
        network = FeaturesAndMaps(self.network, n_last_blocks)
        return replace(self, network=network, maps=network.maps)

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


def no_last_blocks(network: nn.Module, n: int) -> InputError:
    """Return the error for a network whose last `n` blocks cannot be told from the rest."""
    return InputError(
        f"fit.finetune={n} with a {type(network).__name__}.",
        "an EfficientNet or vision transformer of timm, of more blocks than that.",
        "Choose another backbone, or set fit.finetune to 0.",
    )


class LastBlocks(nn.Module):
    """The last blocks of a timm network and what follows them: maps before them -> (tile, feature).

    Maps are (tile, channel, row, column) of a convolutional network, (tile, token, width) of a vision transformer.
    The modules are those of `network`, not copies.
    """

    def __init__(self, network: nn.Module, n: int) -> None:
        """Take the last `n` blocks; raise InputError where the network has no row of blocks, or too few."""
        super().__init__()
        inner: Any = network.network if isinstance(network, ClassAndMean) else network
        blocks = getattr(inner, "blocks", None)
        self.is_convolutional = hasattr(inner, "conv_head") and hasattr(inner, "bn2")
        pool = "class_and_mean" if inner is not network else getattr(inner, "global_pool", None)
        if (
            not isinstance(blocks, nn.Sequential)
            or not (self.is_convolutional or pool in ("class_and_mean", "token", "avg"))
            or len(blocks) <= n
        ):
            raise no_last_blocks(inner, n)
        self.blocks = blocks[-n:]
        self.pool = pool if isinstance(pool, str) else "map"
        self.n_prefix = int(getattr(inner, "num_prefix_tokens", 0))
        names = ("conv_head", "bn2", "global_pool") if self.is_convolutional else ("norm",)
        self.after = nn.Sequential(*(getattr(inner, name) for name in names))
        self.last_norm = getattr(inner, "fc_norm", None) or nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Return the features (tile, feature) of maps."""
        x: Tensor = self.after(self.blocks(maps))
        if self.pool == "class_and_mean":
            return torch.cat([x[:, 0], x[:, self.n_prefix :].mean(dim=1)], dim=-1)
        if not self.is_convolutional:
            x = x[:, 0] if self.pool == "token" else x[:, self.n_prefix :].mean(dim=1)
        return cast("Tensor", self.last_norm(x))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch normalisation keeps the statistics of all that the backbone was trained on."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class FeaturesAndMaps(nn.Module):
    """A timm network that gives the maps before its last blocks, too: (tile, 3, 224, 224) -> (tile, feature + map).

    The maps are flat, behind the features. They are all that later training of the last blocks needs of a tile.
    """

    def __init__(self, network: nn.Module, n_last_blocks: int) -> None:
        super().__init__()
        self.last = LastBlocks(network, n_last_blocks)
        inner: Any = network.network if isinstance(network, ClassAndMean) else network
        names = ("conv_stem", "bn1") if self.last.is_convolutional else ("patch_embed",)
        self.inner, self.n_last = inner, n_last_blocks
        self.first = nn.Sequential(*(getattr(inner, name) for name in names))
        with torch.inference_mode():
            parameter = next(inner.parameters())
            tile = torch.zeros(1, 3, TILE_PX, TILE_PX, device=parameter.device, dtype=parameter.dtype)
            maps = self._maps(tile)
            # of a network that has something else between its parts
            if not torch.allclose(self.last(maps), network(tile), rtol=1e-3, atol=1e-4):
                raise no_last_blocks(inner, n_last_blocks)
        self.maps = tuple(maps.shape[1:])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features and flat maps, (tile, feature + map)."""
        maps = self._maps(pixels)
        return torch.cat([self.last(maps), maps.flatten(1)], dim=1)

    def _maps(self, pixels: Tensor) -> Tensor:
        x, inner = self.first(pixels), cast("Any", self.inner)
        if not self.last.is_convolutional:
            x = inner.norm_pre(inner.patch_drop(inner._pos_embed(x)))
        return cast("Tensor", inner.blocks[: -self.n_last](x))

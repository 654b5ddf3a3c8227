"""A backbone: network, its own normalisation and its identity, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

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

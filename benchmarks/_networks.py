"""The packaged backbone, those of timm with random weights, and one that costs next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.histology.backbone import Backbone, BackboneIdentity

HALF = ((0.5,) * 3, (0.5,) * 3)
GLOBALS = Path(__file__).parents[1] / "conf" / "base" / "globals.yml"


def load_backbone() -> Backbone:
    """Return the packaged backbone, as `conf/base` describes it."""
    settings = yaml.safe_load(GLOBALS.read_text())
    return BackboneDataset(name=settings["backbone"], backbones=settings["backbones"]).load()


class Shrunk(nn.Module):
    """A network that costs next to nothing and gives as many features as a large one: memory alone is asked of it."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side, self.line = side, nn.Conv2d(3, width, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (tile, width) for (tile, 3, 224, 224)."""
        return self.forward_features(pixels).mean(dim=(2, 3))

    def forward_features(self, pixels: Tensor) -> Tensor:
        """Return the map, (tile, width, side, side)."""
        return self.line(nn.functional.avg_pool2d(pixels, 224 // self.side))


def vit(name: str) -> Backbone:
    """Return a ViT of timm with random weights."""
    import timm

    torch.manual_seed(0)
    network: Any = timm.create_model(name, pretrained=False, num_classes=0).eval().requires_grad_(False)
    return Backbone(network, *HALF, BackboneIdentity(name, "random", "0" * 64, "b", network.num_features, "none"))

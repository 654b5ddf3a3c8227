"""Small backbones, and a slide on which colours, positions and axes all differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.slide import ArrayPixels, Slide

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


class MeanColour(nn.Module):
    """Three features: the mean colour; runs out of memory above `limit` tiles."""

    def __init__(self, limit: int = 10**6) -> None:
        super().__init__()
        self.limit, self.sizes = limit, list[int]()

    def forward(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.limit:
            raise torch.cuda.OutOfMemoryError("too many tiles")
        return pixels.mean(dim=(2, 3))


def backbone_of(network: nn.Module, width: int) -> Backbone:
    return Backbone(network, MEAN, STD, BackboneIdentity("tiny", "here", "0" * 64, "c", width, "MIT"))


@pytest.fixture
def mean_colour() -> Backbone:
    return backbone_of(MeanColour(), 3)


@pytest.fixture
def convolution() -> Backbone:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return backbone_of(network.eval().requires_grad_(False), 8)


@pytest.fixture
def slide() -> Slide:
    """300 x 600 px in patches of 10 px of random colours."""
    coarse = np.random.default_rng(0).integers(0, 255, (30, 60, 3), np.uint8)
    return Slide(ArrayPixels(np.kron(coarse, np.ones((10, 10, 1), np.uint8)), "f"), "s")

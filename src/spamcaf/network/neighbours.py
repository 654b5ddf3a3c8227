"""Neighbour branch: the 3 x 3 tiles around the site."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spamcaf.network.encoder import Encoder

N_TILES = 9


class NeighbourBranch(nn.Module):
    """Nine tile tokens, each told where its tile lies, encoded together."""

    def __init__(self, n_components: int, width: int, encoder: Encoder, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_components, width))
        self.tile_position = nn.Parameter(0.02 * torch.randn(N_TILES, width))
        self.encoder = encoder

    def forward(self, neighbours: Tensor) -> Tensor:
        """Return (site, 9, width) for features (site, 9, component)."""
        return self.encoder(self.embed(neighbours) + self.tile_position)

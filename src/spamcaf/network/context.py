"""Context branch: what was measured at the nearest visible spots."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spamcaf.network.position import OffsetEncoding

SHORTEST_UM = 200.0
"""Shortest wavelength of an offset: two pitches of Visium, one of legacy ST."""


class ContextBranch(nn.Module):
    """A token per measured neighbour, from its program scores, its picture and where it lies; and one for "none"."""

    def __init__(self, n_components: int, n_programs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.scores = nn.Linear(n_programs, width)
        self.picture = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_components, width))
        self.offset = OffsetEncoding(width, SHORTEST_UM)
        self.norm = nn.LayerNorm(width)
        self.empty = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, scores: Tensor, target: Tensor, offset_um: Tensor) -> Tensor:
        """Return (site, 1 + neighbour, width); the first token is the learned empty one.

        `scores` is (site, neighbour, program), `target` (site, neighbour, component), `offset_um`
        (site, neighbour, 2) from the site to the neighbour, NaN for neighbours that the fusion will not look at.
        """
        tokens = self.norm(self.scores(scores) + self.picture(target) + self.offset(offset_um))
        empty = self.empty.to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat([empty, tokens], dim=1)

"""Global branch: the site within its whole section, seen through the pictures of all spots."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spamcaf.network.encoder import Encoder
from spamcaf.network.position import PositionEncoding

SHORTEST_UM = 800.0
"""Shortest wavelength of a position in the section: finer detail is the measured neighbours' business."""


class SectionBranch(nn.Module):
    """One token per site, and a fixed number of summary tokens, so that cost stays linear in the spots."""

    def __init__(
        self, n_components: int, width: int, encoder: Encoder, n_summary: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_components, width))
        self.position = PositionEncoding(width, SHORTEST_UM)
        self.encoder = encoder
        self.queries = nn.Parameter(torch.randn(n_summary, width) / width**0.5)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)

    def forward(
        self, target: Tensor, xy_um: Tensor, section_target: Tensor, section_xy_um: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sites' tokens (site, width) and the section's summary tokens (summary, width).

        Features are (site, component) and (spot, component), positions (site, 2) and (spot, 2) in micrometres.
        """
        sites = self.embed(target) + self.position(xy_um)
        section = self.embed(section_target) + self.position(section_xy_um)
        sites, section = self.encoder.beside(sites, section)
        keys = self.norm(section)[None]
        summary, _ = self.attention(self.queries[None], keys, keys, need_weights=False)
        return sites, summary[0]

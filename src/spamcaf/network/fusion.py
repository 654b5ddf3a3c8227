"""Fusion: the target token asks the other branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of one query per site over un-pooled tokens (over one key a softmax ignores its query)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)

    def forward(self, query: Tensor, tokens: Tensor, is_hidden: Tensor | None = None) -> Tensor:
        """Return (site, width) for queries (site, width) over `tokens` (site, token, width) not `is_hidden`."""
        keys = self.norm(tokens)
        out, _ = self.attention(query[:, None], keys, keys, key_padding_mask=is_hidden, need_weights=False)
        return out[:, 0]


class Fusion(nn.Module):
    """Cross-attention to neighbour tiles, section and measured context; the results are added to the target token."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_neighbours = CrossAttention(width, heads, dropout)
        self.to_section = CrossAttention(width, heads, dropout)
        self.to_context = CrossAttention(width, heads, dropout)

    def forward(self, target: Tensor, neighbours: Tensor, summary: Tensor, context: Tensor, is_seen: Tensor) -> Tensor:
        """Return fusion tokens (site, width).

        `target` is (site, width), `neighbours` (site, token, width), `summary` (token, width), `context`
        (site, 1 + neighbour, width) with the empty token first, `is_seen` (site, neighbour) bool.
        """
        query = self.norm(target)
        is_hidden = torch.cat([is_seen.new_zeros(len(is_seen), 1), ~is_seen], dim=1)
        near = self.to_neighbours(query, neighbours)
        far = self.to_section(query, summary.expand(len(query), -1, -1))
        measured = self.to_context(query, context, is_hidden)
        return target + near + far + measured

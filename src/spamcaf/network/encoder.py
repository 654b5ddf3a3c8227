"""An encoder that is linear in the number of tokens: SummaryMixing (Parcollet et al. 2024, arXiv:2307.07421)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _HeadProjection(nn.Module):
    """Project tokens head by head, each head with a LayerNorm of its own, then GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width // heads, elementwise_affine=False)

    def forward(self, tokens: Tensor) -> Tensor:
        per_head = self.linear(tokens).unflatten(-1, (self.heads, -1))
        return nn.functional.gelu(self.norm(per_head)).flatten(-2)


class SummaryMixing(nn.Module):
    """Mix each token with the mean summary of a set of tokens, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.local = _HeadProjection(width, heads)
        self.summary = _HeadProjection(width, heads)
        self.out = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:
        """Return (..., token, width); `source` (..., other, width) is the set whose summaries are averaged."""
        local = self.local(tokens)
        summary = self.summary(source).mean(-2, keepdim=True)
        return self.out(torch.cat([local, summary.expand_as(local)], dim=-1))


class Block(nn.Module):
    """A pre-norm residual block: mixing, then an MLP on each token."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mixing = SummaryMixing(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:
        """Return the tokens (..., token, width) after one look at `source` (..., other, width)."""
        tokens = tokens + self.dropout(self.mixing(self.norm(tokens), self.norm(source)))
        return tokens + self.dropout(self.mlp(tokens))


class Encoder(nn.Module):
    """Blocks in a row; permuting the tokens permutes the result, so all order comes from position encodings."""

    def __init__(self, width: int, heads: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the encoded tokens (..., token, width)."""
        for block in self.blocks:
            tokens = block(tokens, tokens)
        return tokens

    def beside(self, tokens: Tensor, section: Tensor) -> tuple[Tensor, Tensor]:
        """Return `tokens` and `section` encoded, both mixed with the section's summary only.

        So what is said of a site does not depend on which other sites are asked about.
        """
        for block in self.blocks:
            tokens, section = block(tokens, section), block(section, section)
        return tokens, section

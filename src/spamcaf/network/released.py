"""The network that the released SpaMCAF code really computes, written anew from a description of what it uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

HIDDEN = 2048
TOKEN = 1024
ATTENTION = 512
TOKEN_DROPOUT, ATTENTION_DROPOUT = 0.1, 0.25


@dataclass(frozen=True)
class ReleasedShape:
    """Sizes that the data give; the widths between are those of the released code."""

    n_features: int
    n_genes: int


class GatedAttentionPooling(nn.Module):
    """A weighted mean of tokens, each weighed by itself: tanh x sigmoid, one number, softmax over the tokens."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        # no bias: the softmax would take it out again, and it would never learn
        self.weigh = nn.Linear(hidden, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (site, width) for (site, token, width)."""
        weights = self.weigh(self.content(tokens) * self.gate(tokens)).softmax(dim=1)  # (site, token, 1)
        return (weights * tokens).sum(dim=1)


def _token_mlp(n_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(n_features),
        nn.Linear(n_features, HIDDEN),
        nn.GELU(),
        nn.Dropout(TOKEN_DROPOUT),
        nn.Linear(HIDDEN, TOKEN),
        nn.Dropout(TOKEN_DROPOUT),
    )


def _gene_mlp(n_genes: int) -> nn.Sequential:
    # no bias before a batch norm: it would be taken out again with the mean
    return nn.Sequential(
        nn.Linear(TOKEN, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN, bias=False),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, n_genes),
        nn.ReLU(),
    )


class ReleasedNetwork(nn.Module):
    """From two pictures of a site, the tile there and the window around it, to its expression."""

    def __init__(self, shape: ReleasedShape) -> None:
        super().__init__()
        self.tokens = _token_mlp(shape.n_features)
        self.pooling = GatedAttentionPooling(TOKEN, ATTENTION, ATTENTION_DROPOUT)
        self.genes = _gene_mlp(shape.n_genes)

    def forward(self, target: Tensor, whole: Tensor) -> Tensor:
        """Return (site, gene), none below 0, for the features (site, feature) of tile and shrunk window."""
        pictures = torch.stack([target, whole], dim=1)  # (site, 2, feature)
        return self.genes(self.pooling(self.tokens(pictures)))

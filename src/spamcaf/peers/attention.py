"""The transformer block of the peers: layer norm before attention and before the MLP."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Attention of several heads, from queries to keys, each after a layer norm."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm_query, self.norm_key = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return (batch, query, width) of queries and keys (batch, token, width); `bias` (head, query, key)."""
        queries, keys = self.norm_query(queries), self.norm_key(keys)
        found = nn.functional.scaled_dot_product_attention(
            self._heads(self.query(queries)),
            self._heads(self.key(keys)),
            self._heads(self.value(keys)),
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(found.transpose(1, 2).flatten(2))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.n_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention, of the tokens to themselves or to others, and an MLP, each with a residual path."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads, dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, mlp_ratio * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_ratio * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor, keys: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return (batch, token, width)."""
        tokens = tokens + self.attention(tokens, tokens if keys is None else keys, bias)
        return tokens + self.mlp(tokens)

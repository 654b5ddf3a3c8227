"""Target branch: the tile at the site."""

from __future__ import annotations

from torch import Tensor, nn


class TargetBranch(nn.Module):
    """An MLP from the features of the site's own tile to the target token."""

    def __init__(self, n_components: int, width: int, dropout: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(n_components, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
        )

    def forward(self, target: Tensor) -> Tensor:
        """Return (site, width) for features (site, component)."""
        return self.mlp(target)

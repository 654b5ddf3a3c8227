"""Positions in micrometres as vectors, continuous so that sites between the spots are as good as spots."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

N_OCTAVES = 6


class OffsetEncoding(nn.Module):
    """Fourier features of (x, y) in micrometres and a small MLP; NaN is taken for 0."""

    wavenumbers: Tensor

    def __init__(self, width: int, shortest_um: float) -> None:
        """Encode into `width` numbers with wavelengths of `shortest_um` times 1, 2, 4, ... 32."""
        super().__init__()
        wavelengths_um = shortest_um * 2.0 ** torch.arange(N_OCTAVES)
        self.register_buffer("wavenumbers", 2 * math.pi / wavelengths_um, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(4 * N_OCTAVES, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, xy_um: Tensor) -> Tensor:
        """Return (..., width) for offsets (..., 2)."""
        phase = xy_um.nan_to_num().unsqueeze(-1) * self.wavenumbers  # (..., 2, octave)
        return self.mlp(torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2))


class PositionEncoding(OffsetEncoding):
    """The same for positions, of which one that is NaN is a learned unknown one."""

    def __init__(self, width: int, shortest_um: float) -> None:
        super().__init__(width, shortest_um)
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, xy_um: Tensor) -> Tensor:
        """Return (..., width) for positions (..., 2)."""
        is_unknown = xy_um.isnan().any(-1, keepdim=True)
        return torch.where(is_unknown, self.unknown, super().forward(xy_um))

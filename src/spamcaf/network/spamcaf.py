"""The SpaMCAF network: target, neighbour and global branch, measured context, fusion, and a program head on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from spamcaf.network.context import ContextBranch
from spamcaf.network.encoder import Encoder
from spamcaf.network.fusion import Fusion
from spamcaf.network.neighbours import NeighbourBranch
from spamcaf.network.section import SectionBranch
from spamcaf.network.target import TargetBranch


@dataclass(frozen=True)
class SpamcafShape:
    """Sizes of the network: image components and programs of the data, then width and depth of the parts.

    `one_token` is the figure taken at its word: the fusion asks one pooled neighbour and one pooled section token.
    Attention over one key ignores its query, so this is for comparison only.
    """

    n_components: int
    n_programs: int
    width: int
    heads: int
    depth: int
    dropout: float
    n_summary: int
    one_token: bool = False


class SpamcafInput(NamedTuple):
    """What the network looks at; positions in micrometres, NaN where unknown."""

    target: Tensor  # (site, component)
    neighbours: Tensor  # (site, 9, component)
    xy_um: Tensor  # (site, 2)
    section_target: Tensor  # (spot, component)
    section_xy_um: Tensor  # (spot, 2)
    context_scores: Tensor  # (site, neighbour, program)
    context_target: Tensor  # (site, neighbour, component)
    context_offset_um: Tensor  # (site, neighbour, 2)
    context_seen: Tensor  # (site, neighbour) bool


class SpamcafOutput(NamedTuple):
    """Program scores (site, program) of each head, in the order of the losses L1 to L4."""

    target: Tensor
    neighbour: Tensor
    section: Tensor
    fusion: Tensor


def _head(width: int, n_programs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_programs))


class SpamcafNetwork(nn.Module):
    """From pictures, positions and measured neighbours to the program scores of sites."""

    def __init__(self, shape: SpamcafShape) -> None:
        super().__init__()
        components, width, heads, dropout = shape.n_components, shape.width, shape.heads, shape.dropout
        near = Encoder(width, heads, shape.depth, dropout)
        far = Encoder(width, heads, shape.depth, dropout)
        self.one_token = shape.one_token
        self.target = TargetBranch(components, width, dropout)
        self.neighbours = NeighbourBranch(components, width, near, dropout)
        self.section = SectionBranch(components, width, far, shape.n_summary, heads, dropout)
        self.context = ContextBranch(components, shape.n_programs, width, dropout)
        self.fusion = Fusion(width, heads, dropout)
        self.target_head = _head(width, shape.n_programs)
        self.neighbour_head = _head(width, shape.n_programs)
        self.section_head = _head(width, shape.n_programs)
        self.fusion_head = _head(width, shape.n_programs)

    def forward(self, given: SpamcafInput) -> SpamcafOutput:
        """Return the four heads' program scores, each (site, program)."""
        target = self.target(given.target)
        neighbours = self.neighbours(given.neighbours)
        pooled = neighbours.mean(1, keepdim=True)
        section, summary = self.section(given.target, given.xy_um, given.section_target, given.section_xy_um)
        context = self.context(given.context_scores, given.context_target, given.context_offset_um)
        near, far = (pooled, summary.mean(0)[None]) if self.one_token else (neighbours, summary)
        fused = self.fusion(target, near, far, context, given.context_seen)
        return SpamcafOutput(
            target=self.target_head(target),
            neighbour=self.neighbour_head(pooled[:, 0]),
            section=self.section_head(section),
            fusion=self.fusion_head(fused),
        )

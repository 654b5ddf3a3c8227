"""The SpaMCAF network, leaf to root: encoder, position encodings, the branches, fusion, and a head on each.

It reads components of image features, positions in micrometres and program scores of measured neighbours, and returns
program scores. It knows nothing of data, files, settings or losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Set a random share of the numbers to 0 in training, and scale up the others.

    On a CPU one byte decides over each number, so the share is a multiple of 1/256: torch draws eight bytes for each,
    which took a seventh of the training time.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.training or not self.share or x.device.type != "cpu":
            return nn.functional.dropout(x, self.share, self.training)
        least = round(self.share * 256)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= least
        return x * kept.to(x.dtype).mul_(256 / (256 - least))


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
    """Mix each token with the mean summary of a set of tokens, in several heads; linear in the number of tokens.

    References
    ----------
    Parcollet et al. 2024, SummaryMixing, arXiv:2307.07421.
    """

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
            Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:
        """Return the tokens (..., token, width) mixed with the summary of `source` (..., other, width)."""
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

        So the encoding of a site does not depend on which other sites are in the batch.
        """
        for block in self.blocks:
            tokens, section = block(tokens, section), block(section, section)
        return tokens, section


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
    """The same for positions in the section; a position that is NaN has a learned encoding of its own."""

    def __init__(self, width: int, shortest_um: float) -> None:
        super().__init__(width, shortest_um)
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, xy_um: Tensor) -> Tensor:
        """Return (..., width) for positions (..., 2)."""
        is_unknown = xy_um.isnan().any(-1, keepdim=True)
        return torch.where(is_unknown, self.unknown, super().forward(xy_um))


class TargetBranch(nn.Module):
    """An MLP from the features of the site's own tile to the target token."""

    def __init__(self, n_components: int, width: int, dropout: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            Dropout(dropout), nn.Linear(n_components, width), nn.GELU(), Dropout(dropout), nn.Linear(width, width)
        )

    def forward(self, target: Tensor) -> Tensor:
        """Return (site, width) for features (site, component)."""
        return self.mlp(target)


N_TILES = 9


class NeighbourBranch(nn.Module):
    """Nine tile tokens, each with a learned encoding of its place in the 3 x 3 tiles, encoded together."""

    def __init__(self, n_components: int, width: int, encoder: Encoder, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Sequential(Dropout(dropout), nn.Linear(n_components, width))
        self.tile_position = nn.Parameter(0.02 * torch.randn(N_TILES, width))
        self.encoder = encoder

    def forward(self, neighbours: Tensor) -> Tensor:
        """Return (site, 9, width) for features (site, 9, component)."""
        return self.encoder(self.embed(neighbours) + self.tile_position)


SECTION_SHORTEST_UM = 800.0
"""Shortest wavelength of a position in the section; finer detail comes from the measured neighbours."""


class SectionBranch(nn.Module):
    """One token per site, and a fixed number of summary tokens, so that cost stays linear in the spots."""

    def __init__(
        self, n_components: int, width: int, encoder: Encoder, n_summary: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(Dropout(dropout), nn.Linear(n_components, width))
        self.position = PositionEncoding(width, SECTION_SHORTEST_UM)
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


CONTEXT_SHORTEST_UM = 200.0
"""Shortest wavelength of an offset: two pitches of Visium, one of legacy ST."""


class ContextBranch(nn.Module):
    """A token per measured neighbour, from its program scores, image features and offset; and a learned empty one."""

    def __init__(self, n_components: int, n_programs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.scores = nn.Linear(n_programs, width)
        self.image = nn.Sequential(Dropout(dropout), nn.Linear(n_components, width))
        self.offset = OffsetEncoding(width, CONTEXT_SHORTEST_UM)
        self.norm = nn.LayerNorm(width)
        self.empty = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, scores: Tensor, target: Tensor, offset_um: Tensor) -> Tensor:
        """Return (site, 1 + neighbour, width); the first token is the learned empty one.

        `scores` is (site, neighbour, program), `target` (site, neighbour, component), `offset_um`
        (site, neighbour, 2) from the site to the neighbour, NaN for neighbours that the fusion masks out.
        """
        tokens = self.norm(self.scores(scores) + self.image(target) + self.offset(offset_um))
        empty = self.empty.to(tokens.dtype).expand(len(tokens), 1, -1)
        return torch.cat([empty, tokens], dim=1)


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


@dataclass(frozen=True)
class SpamcafShape:
    """Sizes of the network: image components and programs of the data, then width and depth of the parts.

    `one_token`: the fusion attends to one pooled neighbour and one pooled section token, as the published figure is
    drawn. Attention over one key ignores its query, so this is for comparison only.
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
    """A batch of sites; positions in micrometres, NaN where unknown."""

    target: Tensor  # (site, component)
    neighbours: Tensor  # (site, 9, component)
    xy_um: Tensor  # (site, 2)
    section_target: Tensor  # (spot, component)
    section_xy_um: Tensor  # (spot, 2)
    context_scores: Tensor  # (site, neighbour, program)
    context_target: Tensor  # (site, neighbour, component)
    context_offset_um: Tensor  # (site, neighbour, 2)
    context_seen: Tensor  # (site, neighbour) bool
    maps: Tensor | None = None  # (site, view, ...) of the target tile, before the backbone's last blocks
    origin: Tensor | None = None  # (site, feature) from which the features of those blocks are counted


class SpamcafOutput(NamedTuple):
    """Program scores (site, program) of each head, in the order of the losses L1 to L4."""

    target: Tensor
    neighbour: Tensor
    section: Tensor
    fusion: Tensor


def _head(width: int, n_programs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_programs))


class SpamcafNetwork(nn.Module):
    """From image features, positions and measured neighbours to the program scores of sites."""

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

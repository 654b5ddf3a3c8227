"""TRIPLEX: target, neighbourhood and global branch, fused by cross-attention, each taught by the fusion as well.

The original trains a ResNet-18 for the target tile and has 49 tokens of it; here the target is one token of frozen
features, the neighbourhood the 3 x 3 tiles around it (there 5 x 5), and the width 128 (there 512).

References
----------
.. [1] Chung, Ha, Im and Lee (2024), Accurate spatial gene expression prediction by integrating multi-resolution
   features, CVPR.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor, nn

from spamcaf.parameters import ComputeSettings
from spamcaf.peers.attention import Block
from spamcaf.peers.frozen import (
    DEFAULT_COMPUTE,
    Expression,
    Scaling,
    array_positions,
    hold_out,
    on_device,
    read,
    training,
)
from spamcaf.sections.sites import Measured, SiteSource

WIDTH, N_HEADS = 128, 16
NEIGHBOUR_DEPTH, NEIGHBOUR_DROPOUT = 3, 0.3
GLOBAL_DEPTHS, GLOBAL_DROPOUT = (1, 2), 0.1  # blocks before and after the position
FUSION_HEADS, FUSION_DROPOUT = 4, 0.2
LABEL_WEIGHT, DISTILLATION_WEIGHT = 0.7, 0.3
LEARNING_RATE = 1e-3
BATCH = 128
EPOCHS, PATIENCE, PLATEAU = 150, 20, 10
REACH_PITCHES = 1.5
"""Labels are averaged over the measured spots within this distance: 3 x 3 on a square lattice."""
ACROSS = 3


class Spots(NamedTuple):
    """All spots of a section, those to predict included: what the image shows."""

    windows: Tensor  # (spot, 9, feature)
    cells: Tensor  # (spot,) the cell of the array grid that a spot lies in
    shape: tuple[int, int]  # (row, column) of the array grid


class GridConvolution(nn.Module):
    """A depthwise 3 x 3 convolution over the array grid, added to the tokens: their position (APEG)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, tokens: Tensor, spots: Spots) -> Tensor:
        """Return tokens (spot, width)."""
        rows, columns = spots.shape
        grid = tokens.new_zeros(rows * columns, WIDTH).index_add(0, spots.cells, tokens)
        shared = tokens.new_zeros(rows * columns).index_add(0, spots.cells, tokens.new_ones(len(tokens)))
        grid = grid / shared.clamp(min=1)[:, None]  # on a hexagonal lattice two spots may lie in one cell
        convolved = self.convolution(grid.T.reshape(1, WIDTH, rows, columns))
        return tokens + convolved.flatten(2)[0].T[spots.cells]


class Triplex(nn.Module):
    """The three branches and their fusion, each with a head of its own."""

    def __init__(self, n_features: int, n_genes: int) -> None:
        super().__init__()
        self.target, self.neighbour, self.section = (nn.Linear(n_features, WIDTH) for _ in range(3))
        self.neighbour_blocks = nn.ModuleList(
            [Block(WIDTH, N_HEADS, 1, NEIGHBOUR_DROPOUT) for _ in range(NEIGHBOUR_DEPTH)]
        )
        steps = np.stack(np.divmod(np.arange(ACROSS**2), ACROSS), axis=1)
        offsets = (steps[:, None] - steps[None]) + ACROSS - 1  # (tile, tile, 2), from 0
        self.register_buffer("offsets", torch.from_numpy(offsets @ [2 * ACROSS - 1, 1]))
        self.offset_bias = nn.Embedding((2 * ACROSS - 1) ** 2, N_HEADS)
        self.before, self.after = (
            nn.ModuleList([Block(WIDTH, N_HEADS, 4, GLOBAL_DROPOUT) for _ in range(depth)]) for depth in GLOBAL_DEPTHS
        )
        self.position = GridConvolution()
        self.fusion = Block(WIDTH, FUSION_HEADS, 4, FUSION_DROPOUT)
        self.heads = nn.ModuleList([nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_genes)) for _ in range(4)])

    def forward(self, spots: Spots, rows: Tensor) -> list[Tensor]:
        """Return expression (row, gene) by target, neighbourhood and global branch, and by their fusion."""
        windows = spots.windows[rows]
        target = self.target(windows[:, [ACROSS**2 // 2]])
        around = self.neighbour(windows)
        bias = self.offset_bias(self.get_buffer("offsets")).permute(2, 0, 1)
        for block in self.neighbour_blocks:
            around = block(around, bias=bias)
        whole = self._global(spots)[rows, None]
        fused = self.fusion(whole, target) + self.fusion(whole, around)
        tokens = target[:, 0], around.mean(dim=1), whole[:, 0], fused[:, 0]
        return [head(token) for head, token in zip(self.heads, tokens, strict=True)]

    def _global(self, spots: Spots) -> Tensor:
        """Return a token (spot, width) of each spot of the section."""
        tokens = self.section(spots.windows[:, ACROSS**2 // 2])[None]
        for block in self.before:
            tokens = block(tokens)
        tokens = self.position(tokens[0], spots)[None]
        for block in self.after:
            tokens = block(tokens)
        return tokens[0]


def triplex_loss(outputs: list[Tensor], labels: Tensor) -> Tensor:
    """Return the squared error of the fusion, and of each branch against labels and fusion."""
    *branches, fused = outputs
    error = nn.functional.mse_loss
    parts = [LABEL_WEIGHT * error(branch, labels) + DISTILLATION_WEIGHT * error(branch, fused) for branch in branches]
    return error(fused, labels) + torch.stack(parts).sum()


def predict(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, compute: ComputeSettings = DEFAULT_COMPUTE
) -> Expression:
    """Return expression (site, gene) of the fusion, none below 0."""
    xy_um = np.concatenate([measured.sites.xy_um, sites.xy_um])
    columns, rows = array_positions(xy_um, pitch_um).T
    shape = int(rows.max()) + 1, int(columns.max()) + 1
    windows = np.concatenate([measured.sites.neighbours, read(sites, lambda part: part.neighbours)])
    mean = measured.expression.mean(axis=0, dtype=np.float64).astype(np.float32)
    with training(compute, seed) as machine:
        scaled = on_device(Scaling.of(windows).apply(windows), machine)
        spots = Spots(scaled, on_device(rows * shape[1] + columns, machine), shape)
        network = fit(spots, measured, mean, pitch_um, seed)
        wanted = torch.arange(len(measured), len(xy_um), device=machine.device)
        with torch.no_grad():
            predicted = torch.cat([network(spots, part)[-1] for part in wanted.split(BATCH)]).cpu().numpy()
    return np.maximum(np.asarray(mean + predicted, np.float32), 0.0)


def fit(spots: Spots, measured: Measured, mean: NDArray[np.float32], pitch_um: float, seed: int) -> Triplex:
    """Return the network, ready to predict, of the epoch with the best correlation on spots set aside."""
    device = spots.windows.device
    learn, validate = hold_out(len(measured), seed)
    residual = measured.expression - mean
    smooth = torch.as_tensor(smoothed(residual[learn], measured.sites.xy_um[learn], pitch_um), device=device)
    truth = torch.as_tensor(residual[validate], device=device)
    held, seen = (torch.as_tensor(part, device=device) for part in (validate, learn))
    network = Triplex(spots.windows.shape[-1], len(mean)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.1, patience=PLATEAU)
    best, highest, since = copy.deepcopy(network.state_dict()), -np.inf, 0
    for _ in range(EPOCHS):
        network.train()
        for rows in torch.randperm(len(seen)).to(device).split(BATCH):
            loss = triplex_loss(network(spots, seen[rows]), smooth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            score = mean_correlation(network(spots, held)[-1], truth)
        schedule.step(score)
        since += 1
        if score > highest:
            best, highest, since = copy.deepcopy(network.state_dict()), score, 0
        if since >= PATIENCE:
            break
    network.load_state_dict(best)
    return network.eval()


def smoothed(expression: NDArray[np.float32], xy_um: NDArray[np.float64], pitch_um: float) -> NDArray[np.float32]:
    """Return each spot's mean over the spots (spot, gene) around it, its own included."""
    tree = cKDTree(xy_um)
    near = tree.query_ball_point(xy_um, REACH_PITCHES * pitch_um)
    return np.stack([expression[rows].mean(axis=0) for rows in near])


def mean_correlation(found: Tensor, truth: Tensor) -> float:
    """Return the Pearson correlation over spots (spot, gene), mean over genes; an undefined one counts as 0."""
    found, truth = found - found.mean(dim=0), truth - truth.mean(dim=0)
    product = (found * truth).sum(dim=0)
    return float((product / (found.norm(dim=0) * truth.norm(dim=0)).clamp(min=1e-12)).mean())

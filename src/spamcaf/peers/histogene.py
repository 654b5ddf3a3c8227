"""HisToGene: a transformer over all spots of a section, with embeddings of array column and row.

The original reads raw pixels (112 x 112 x 3, flattened); here a token is the frozen features of the spot's tile. Its
width of 1024 and 8 blocks are cut to what one section can train in a minute on a CPU, with fewer and larger steps.

References
----------
.. [1] Pang, Su and Li (2021), Leveraging information in spatial transcriptomics to predict super-resolution gene
   expression from histology images in tumors, bioRxiv 2021.11.28.470212.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from spamcaf.parameters import ComputeSettings
from spamcaf.peers.attention import Block
from spamcaf.peers.frozen import (
    DEFAULT_COMPUTE,
    Expression,
    Scaling,
    array_positions,
    on_device,
    target_features,
    training,
)
from spamcaf.sections.sites import Measured, SiteSource

WIDTH = 256
N_BLOCKS, N_HEADS, MLP_RATIO = 4, 4, 2
DROPOUT = 0.1
LEARNING_RATE = 1e-4
EPOCHS = 200


class HisToGene(nn.Module):
    """From the features and array positions of all spots of a section to their expression."""

    def __init__(self, n_features: int, n_positions: tuple[int, int], n_genes: int) -> None:
        super().__init__()
        self.patch = nn.Linear(n_features, WIDTH)
        self.column, self.row = (nn.Embedding(n, WIDTH) for n in n_positions)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList([Block(WIDTH, N_HEADS, MLP_RATIO, DROPOUT) for _ in range(N_BLOCKS)])
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_genes))

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """Return (spot, gene) of features (spot, feature) and positions (spot, 2)."""
        tokens = self.patch(features) + self.column(positions[:, 0]) + self.row(positions[:, 1])
        tokens = self.dropout(tokens)[None]
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[0])


def predict(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, compute: ComputeSettings = DEFAULT_COMPUTE
) -> Expression:
    """Return expression (site, gene); the sites stand in the sequence beside the measured spots, without a loss."""
    positions = array_positions(np.concatenate([measured.sites.xy_um, sites.xy_um]), pitch_um)
    features = np.concatenate([measured.sites.target, target_features(sites)])
    mean = measured.expression.mean(axis=0, dtype=np.float64).astype(np.float32)
    n_columns, n_rows = (positions.max(axis=0) + 1).tolist()
    with training(compute, seed) as machine:
        tokens = on_device(Scaling.of(features).apply(features), machine), on_device(positions, machine)
        residual = on_device(measured.expression - mean, machine)
        network = HisToGene(features.shape[1], (n_columns, n_rows), len(mean)).to(machine.device)
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for _ in range(EPOCHS):
            loss = nn.functional.mse_loss(network(*tokens)[: len(measured)], residual)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            predicted = network.eval()(*tokens)[len(measured) :].cpu().numpy()
    return np.asarray(mean + predicted, np.float32)

"""BLEEP: image and expression embedded in one space by a contrastive loss; a site gets the mean of its nearest spots.

The original trains a ResNet-50; here the tile's features are frozen, and only the two projection heads learn. Its 4
epochs over many sections are too few steps for one: here the epoch of the least validation loss is taken, of at most
`EPOCHS`.

References
----------
.. [1] Xie et al. (2023), Spatially resolved gene expression prediction from H&E histology images via bi-modal
   contrastive learning, NeurIPS.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from spamcaf.parameters import ComputeSettings
from spamcaf.peers.frozen import DEFAULT_COMPUTE, Expression, Scaling, hold_out, on_device, target_features, training
from spamcaf.sections.sites import Measured, SiteSource

WIDTH = 256
DROPOUT = 0.1
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-3
BATCH = 256
EPOCHS = 60
N_NEAREST = 50


class ProjectionHead(nn.Module):
    """A linear map into the common space and a residual block behind it."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_inputs, WIDTH)
        self.block = nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.Dropout(DROPOUT))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return embeddings (spot, width) of inputs (spot, input)."""
        projected = self.project(inputs)
        return self.norm(projected + self.block(projected))


class Embedding(nn.Module):
    """The heads of both modalities, and their contrastive loss."""

    def __init__(self, n_features: int, n_genes: int) -> None:
        super().__init__()
        self.image, self.expression = ProjectionHead(n_features), ProjectionHead(n_genes)

    def forward(self, features: Tensor, expression: Tensor) -> Tensor:
        """Return the symmetric cross-entropy between the similarities and soft targets from within each modality."""
        image, spot = self.image(features), self.expression(expression)
        logits = spot @ image.T
        targets = ((image @ image.T + spot @ spot.T) / 2).softmax(dim=-1)
        entropy = nn.functional.cross_entropy
        return (entropy(logits, targets) + entropy(logits.T, targets.T)) / 2


def predict(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, compute: ComputeSettings = DEFAULT_COMPUTE
) -> Expression:
    """Return expression (site, gene): the mean of the 50 measured spots whose expression lies nearest to the image."""
    scaling = Scaling.of(measured.sites.target)
    with training(compute, seed) as machine:
        features = on_device(scaling.apply(measured.sites.target), machine)
        expression = on_device(measured.expression, machine)
        model = fit(features, expression, seed)
        with torch.no_grad():
            keys = nn.functional.normalize(model.expression(expression))
            queries = model.image(on_device(scaling.apply(target_features(sites)), machine))
            nearest = (nn.functional.normalize(queries) @ keys.T).topk(min(N_NEAREST, len(keys))).indices
            # one weight per site and spot: gathered profiles would be (site, 50, gene)
            weights = torch.zeros(len(queries), len(keys), device=machine.device).scatter_(1, nearest, 1.0)
            predicted = weights @ expression / nearest.shape[1]
    return np.asarray(predicted.cpu().numpy(), np.float32)


def fit(features: Tensor, expression: Tensor, seed: int) -> Embedding:
    """Return the heads, ready to embed, of the epoch with the least loss on spots set aside."""
    model = Embedding(features.shape[1], expression.shape[1]).to(features.device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    learn, validate = (torch.as_tensor(part, device=features.device) for part in hold_out(len(features), seed))
    best, least = copy.deepcopy(model.state_dict()), float("inf")
    for _ in range(EPOCHS):
        model.train()
        for rows in learn[torch.randperm(len(learn)).to(learn.device)].split(BATCH):
            loss = model(features[rows], expression[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = model(features[validate], expression[validate]).item()
        if loss < least:
            best, least = copy.deepcopy(model.state_dict()), loss
    model.load_state_dict(best)
    return model.eval()

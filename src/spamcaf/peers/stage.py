"""STAGE: an autoencoder of expression whose two latent numbers are trained to be a spot's coordinates.

Decoded at any place it predicts the expression there. It uses no image.

References
----------
.. [1] Li et al. (2024), High-density generation of spatial transcriptomics with STAGE, Nucleic Acids Research 52, 4843.
.. [2] Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters of measures, J. Math. Imaging Vision 51, 22.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from spamcaf.parameters import ComputeSettings
from spamcaf.peers.frozen import DEFAULT_COMPUTE, Expression, on_device, training
from spamcaf.sections.sites import Measured, SiteSource

HIDDEN = (1000, 500, 50, 10)
N_PROJECTIONS = 1000
LATENT_WEIGHT, RECONSTRUCTION_WEIGHT, SECOND_WEIGHT = 0.1, 0.01, 0.1
LEARNING_RATE = 1e-3
BATCH = 512
EPOCHS = 600
LAST_BIAS = f"{3 * len(HIDDEN)}.bias"


def layers(sizes: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these sizes, batch norm and ReLU between them and a ReLU at the end."""
    found: list[nn.Module] = []
    for n_inputs, n_outputs in pairwise(sizes):
        found += [nn.Linear(n_inputs, n_outputs), nn.BatchNorm1d(n_outputs), nn.ReLU()]
    del found[-2]
    return nn.Sequential(*found)


def sliced_wasserstein(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared 2-Wasserstein distance of two point sets (point, 2), mean over random projections [2]_."""
    directions = nn.functional.normalize(torch.randn(found.shape[1], N_PROJECTIONS, device=found.device), dim=0)
    first, second = ((points @ directions).sort(dim=0).values for points in (found, wanted))
    return nn.functional.mse_loss(first, second)


def predict(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, compute: ComputeSettings = DEFAULT_COMPUTE
) -> Expression:
    """Return expression (site, gene), decoded at the coordinates of the sites."""
    origin_um = measured.sites.xy_um.min(axis=0)
    extent_um = float((measured.sites.xy_um - origin_um).max()) or 1.0
    with training(compute, seed) as machine:
        xy, at = (on_device((source.xy_um - origin_um) / extent_um, machine) for source in (measured.sites, sites))
        expression = on_device(measured.expression, machine)
        decoder = fit(xy, expression)
        with torch.no_grad():
            predicted = decoder(at)
    return np.asarray(predicted.cpu().numpy(), np.float32)


def fit(xy: Tensor, expression: Tensor) -> nn.Sequential:
    """Return the decoder, ready to predict, trained on spots at `xy` (spot, 2), from 0 to 1."""
    sizes = (expression.shape[1], *HIDDEN, xy.shape[1])
    encoder, decoder = (layers(order).to(xy.device) for order in (sizes, sizes[::-1]))
    with torch.no_grad():  # where a last ReLU starts below 0 for all spots it stays 0 for ever
        encoder.get_parameter(LAST_BIAS).copy_(xy.mean(dim=0))
        decoder.get_parameter(LAST_BIAS).copy_(expression.mean(dim=0))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], LEARNING_RATE)
    for _ in range(EPOCHS):
        for rows in _batches(len(xy), xy.device):
            latent = encoder(expression[rows])
            rebuilt = decoder(latent)
            place = nn.functional.l1_loss(latent, xy[rows]) + SECOND_WEIGHT * sliced_wasserstein(latent, xy[rows])
            error = nn.functional.mse_loss(rebuilt, expression[rows])
            error = error + SECOND_WEIGHT * nn.functional.l1_loss(rebuilt, expression[rows])
            optimizer.zero_grad()
            (LATENT_WEIGHT * place + RECONSTRUCTION_WEIGHT * error).backward()
            optimizer.step()
    return decoder.eval()


def _batches(n_spots: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the spots of each step in random order, batches of nearly equal size: a batch norm needs several."""
    return torch.randperm(n_spots).to(device).tensor_split(-(-n_spots // BATCH))

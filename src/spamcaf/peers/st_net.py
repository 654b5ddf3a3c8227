"""ST-Net: a linear layer from a network's features to the genes, trained by gradient descent that stops early.

The original trains all of a DenseNet-121; here the features are frozen, so that the linear layer is all that learns.
It starts as there (weights 0, biases the gene means), and 4-fold cross-validation over spots chooses the number of
epochs. The mean over the 8 symmetries of a tile is taken of its features (`tiles.views=8`), which for a linear layer
is the mean of the predictions.

References
----------
.. [1] He et al. (2020), Integrating spatial gene expression and breast tumour morphology via deep learning, Nature
   Biomedical Engineering 4, 827.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from spamcaf.parameters import ComputeSettings
from spamcaf.peers.frozen import DEFAULT_COMPUTE, Expression, Scaling, on_device, target_features, training
from spamcaf.sections.sites import Measured, SiteSource

LEARNING_RATE = (
    0.02  # per gene, of features with a mean squared length of 1; the original's 1e-6 is for all of its network
)
MOMENTUM = 0.9
BATCH = 32
EPOCHS = 50
N_FOLDS = 4


def predict(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, compute: ComputeSettings = DEFAULT_COMPUTE
) -> Expression:
    """Return expression (site, gene) from the features of each site's own tile."""
    scaling = Scaling.of(measured.sites.target)
    length = np.sqrt(measured.sites.target.shape[1])
    mean = measured.expression.mean(axis=0, dtype=np.float64).astype(np.float32)
    with training(compute, seed) as machine:
        features, at = (
            on_device(scaling.apply(target_features(source)) / length, machine) for source in (measured.sites, sites)
        )
        residual = on_device(measured.expression - mean, machine)
        n_epochs = choose_epochs(features, residual)
        *_, weights = fit(features, residual, n_epochs)
        predicted = (at @ weights).cpu().numpy()
    return np.asarray(mean + predicted, np.float32)


def choose_epochs(features: Tensor, residual: Tensor) -> int:
    """Return the number of epochs, 0 included, with the least squared error on the spots of each fold left out."""
    n_folds = min(N_FOLDS, len(features))
    fold = torch.randperm(len(features)).to(features.device) % n_folds
    errors = torch.zeros(EPOCHS + 1, device=features.device)
    for number in range(n_folds):
        learn, validate = fold != number, fold == number
        for epoch, weights in enumerate(fit(features[learn], residual[learn], EPOCHS)):
            errors[epoch] += (features[validate] @ weights - residual[validate]).square().sum()
    return int(errors.argmin())


@torch.no_grad()
def fit(features: Tensor, residual: Tensor, n_epochs: int) -> Iterator[Tensor]:
    """Yield the weights (feature, gene), 0 at first, then after each epoch; they change in place."""
    weights = torch.zeros(features.shape[1], residual.shape[1], device=features.device)
    velocity = torch.zeros_like(weights)
    yield weights
    for _ in range(n_epochs):
        for rows in torch.randperm(len(features)).to(features.device).split(BATCH):
            # half the slope of the squared error summed over spots; in closed form, since there is one layer
            slope = features[rows].T @ (features[rows] @ weights - residual[rows])
            velocity.mul_(MOMENTUM).add_(slope)
            weights.sub_(velocity, alpha=2 * LEARNING_RATE)
        yield weights

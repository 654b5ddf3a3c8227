"""Predicting with the replica of the released network, in blocks: memory is bounded."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from spamcaf.compute import computing
from spamcaf.errors import InputError
from spamcaf.learning.released.model import ReleasedModel
from spamcaf.learning.released.pictures import pictures_of
from spamcaf.parameters import ComputeSettings
from spamcaf.sections.sites import PART, SiteSource, in_parts


@torch.no_grad()
def predict_released(model: ReleasedModel, sites: SiteSource, compute: ComputeSettings) -> NDArray[np.float32]:
    """Return (site, gene) log1p of counts per 10 000, from the pictures alone; none is below 0."""
    done = [np.empty((0, model.shape.n_genes), np.float32)]
    with computing(compute) as machine:
        network = model.network().to(machine.device)
        for part in in_parts(sites, PART):
            pictures = pictures_of(part)
            _check_features(model, pictures[0])
            with machine.autocast():
                guess = network(*(torch.from_numpy(picture).to(machine.device) for picture in pictures))
            done.append(guess.float().cpu().numpy())
    return np.concatenate(done)


def _check_features(model: ReleasedModel, target: NDArray[np.float32]) -> None:
    expected, found = model.shape.n_features, target.shape[-1]
    if found != expected:
        raise InputError(
            f"{found} features per tile.",
            f"{expected} features, as the model was fitted with.",
            "Embed the sites with the model's own backbone.",
        )

"""The losses L1 to L4.

They are taken on program scores, not on genes: the decoder is linear with fixed orthonormal loadings, so the squared
error of the scaled genes is the squared error of the scores, summed over programs, plus what no score can change.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spamcaf.network.spamcaf import SpamcafOutput


class Losses(NamedTuple):
    """The weighted sum and its four parts, scalars."""

    total: Tensor
    parts: tuple[Tensor, ...]


def program_loss(predicted: Tensor, truth: Tensor, importance: Tensor, pearson_weight: float) -> Tensor:
    """Return the squared error plus `pearson_weight` x (1 - Pearson), averaged over programs by `importance`.

    `predicted` and `truth` are (spot, program), `importance` (program,) sums to 1. Pearson is over the spots given.
    """
    squared = (predicted - truth).square().mean(0)
    return importance @ (squared + pearson_weight * (1 - _pearson(predicted, truth)))


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(0), b - b.mean(0)
    # The floor keeps the gradient finite where a program is predicted as constant.
    return (a * b).sum(0) / (a.square().sum(0) * b.square().sum(0) + 1e-6).sqrt()


def spamcaf_losses(
    out: SpamcafOutput, truth: Tensor, importance: Tensor, pearson_weight: float, branch_weights: tuple[float, ...]
) -> Losses:
    """Return L1 to L4, one per head, and their sum weighted by `branch_weights`."""
    parts = tuple(program_loss(head.float(), truth, importance, pearson_weight) for head in out)
    total = torch.stack([weight * part for weight, part in zip(branch_weights, parts, strict=True)]).sum()
    return Losses(total, parts)

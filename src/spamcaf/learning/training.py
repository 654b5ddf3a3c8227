"""Training of one fold's network."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spamcaf.learning.lesson import Lesson
from spamcaf.learning.losses import Losses, spamcaf_losses
from spamcaf.learning.state import Training
from spamcaf.network.spamcaf import SpamcafNetwork
from spamcaf.parameters import FitSettings

AfterEpoch = Callable[[list[float]], None]
"""Is given the epoch's mean total, L1, L2, L3 and L4."""


def begin(network: SpamcafNetwork, fit: FitSettings) -> Training[SpamcafNetwork]:
    """Return the training of `network`, nothing learned yet."""
    return Training(network, torch.optim.AdamW(network.parameters(), weight_decay=fit.weight_decay, fused=True))


def train_fold(training: Training[SpamcafNetwork], lesson: Lesson, fit: FitSettings, after_epoch: AfterEpoch) -> None:
    """Train from where `training` stands to the last epoch, in place.

    At the first epoch with a loss or gradient that is not finite, training stops with the weights of the epoch before.
    The last weights are kept, never the best ones on the validation fold: that fold decides the mixing weight and must
    not have been chosen on.
    """
    train = lesson.train
    n_steps = sum(_n_batches(len(rows), fit.batch) for rows in train if len(rows))
    while training.is_finite and training.epoch < fit.epochs:
        good = training.weights()
        means = _epoch(training, lesson, train, fit, n_steps)
        if not all(math.isfinite(mean) for mean in means):
            training.network.load_state_dict(good)
            training.is_finite = False
            return
        training.epoch += 1
        *losses, _norm = means
        after_epoch(losses)


def _epoch(
    training: Training[SpamcafNetwork], lesson: Lesson, train: tuple[Tensor, ...], fit: FitSettings, n_steps: int
) -> list[float]:
    """Take a step per batch; return the means of total, L1 to L4, and of the gradient's norm.

    They are read once, at the end: a look at every step would halt a GPU. A step that is not finite leaves its mark in
    the means.
    """
    training.network.train()
    marks = []
    for step, (number, rows) in enumerate(_batches(train, fit.batch), start=training.epoch * n_steps):
        losses = step_losses(training.network, lesson, number, rows, fit)
        training.optimizer.zero_grad()
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(training.network.parameters(), fit.clip_norm)
        training.step(rate(step, fit.epochs * n_steps, fit))
        marks.append(torch.stack([losses.total, *losses.parts, norm]).detach())
    return torch.stack(marks).mean(0).tolist()


def rate(step: int, n_steps: int, fit: FitSettings) -> float:
    """Return the learning rate of a step: a linear rise to the peak, then a cosine towards 0."""
    warmup = max(1, round(fit.warmup_share * n_steps))
    if step < warmup:
        return fit.learning_rate * (step + 1) / warmup
    return fit.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def _batches(train: tuple[Tensor, ...], batch: int) -> list[tuple[int, Tensor]]:
    """Return section and spots of each batch, in random order; a batch is of one section."""
    batches = [
        (number, rows)
        for number, spots in enumerate(train)
        # equal parts: a remainder of one spot would have no correlation
        if len(spots)
        for rows in spots[torch.randperm(len(spots), device=spots.device)].chunk(_n_batches(len(spots), batch))
    ]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()] if len(train) > 1 else batches


def _n_batches(n_spots: int, batch: int) -> int:
    return max(1, round(n_spots / batch))


def step_losses(network: SpamcafNetwork, lesson: Lesson, number: int, rows: Tensor, fit: FitSettings) -> Losses:
    """Return the losses on spots `rows` of section `number`, a random part of the other spots being its context."""
    spots = lesson.sections[number]
    is_visible = torch.rand(len(lesson.is_held), device=rows.device) >= fit.hide_share
    is_blind = bool(torch.rand(()) < fit.blind_share)
    # A part of a large section is enough for its mean, and a step then costs the same on any section.
    section = spots[torch.randperm(len(spots), device=rows.device)[: fit.section_sample]]
    out = lesson.answer(network, rows, is_visible & ~lesson.is_held, is_blind, section)
    return spamcaf_losses(out, lesson.spots.scores[rows], lesson.importance, fit.pearson_weight, fit.branch_weights)

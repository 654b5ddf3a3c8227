"""Training of one fold's network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spamcaf.compute import Machine
from spamcaf.learning.losses import Losses, spamcaf_losses
from spamcaf.learning.sampling import first_seen, nearest_within
from spamcaf.learning.views import SpotView
from spamcaf.network.spamcaf import SpamcafNetwork, SpamcafOutput
from spamcaf.parameters import FitSettings

N_PARTS = 4


@dataclass(frozen=True)
class Lesson:
    """What one fold learns from: all visible spots, which of them to learn from, and how much each program matters.

    `sections` are the spots of each section (spot,). What a spot is shown, its neighbours and the section around it,
    is of its own section.
    """

    spots: SpotView
    sections: tuple[Tensor, ...]
    candidates: Tensor  # (spot, candidate) nearest spots that are learned from, never the spot itself
    is_near: Tensor  # (spot, candidate) whether a candidate is of the spot's section
    is_held: Tensor  # (spot,) validation
    importance: Tensor  # (program,) sums to 1
    n_context: int
    machine: Machine

    @classmethod
    def of(
        cls,
        spots: SpotView,
        section: NDArray[np.int64],
        xy_um: NDArray[np.float64],
        is_held: NDArray[np.bool_],
        importance: Tensor,
        n_context: int,
        machine: Machine,
    ) -> Lesson:
        """Return the lesson of the fold whose validation spots are `is_held` (spot,)."""
        # Four times the context is enough to find it among candidates of which most are hidden.
        candidates, is_near = nearest_within(xy_um, section, np.flatnonzero(~is_held), 4 * n_context)
        sections = [np.flatnonzero(section == number) for number in np.unique(section)]
        on = machine.device
        return cls(
            spots,
            tuple(torch.from_numpy(rows).to(on) for rows in sections),
            torch.from_numpy(candidates).to(on),
            torch.from_numpy(is_near).to(on),
            torch.from_numpy(is_held).to(on),
            importance,
            n_context,
            machine,
        )

    @property
    def train(self) -> tuple[Tensor, ...]:
        """The spots to learn from, section by section; a section that is held out whole has none."""
        return tuple(rows[~self.is_held[rows]] for rows in self.sections)

    def answer(
        self, network: SpamcafNetwork, rows: Tensor, is_visible: Tensor, is_blind: bool, section: Tensor
    ) -> SpamcafOutput:
        """Return the network's output for spots `rows` of one section.

        Their context may be the train spots that are `is_visible` (spot,); the global branch is shown the spots
        `section`. Blind: no context and no positions, as on a section that was never measured.
        """
        seen = is_visible[self.candidates[rows]] & self.is_near[rows] & (not is_blind)
        index, seen = first_seen(self.candidates[rows], seen, self.n_context)
        spots = self.spots.blind() if is_blind else self.spots
        with self.machine.autocast():
            return network(spots.around(spots.sites, rows, index, seen, section))

    @torch.no_grad()
    def held_scores(self, network: SpamcafNetwork, is_blind: bool) -> Tensor:
        """Return the fusion head's scores (validation, program), all train spots visible unless blind."""
        network.eval()
        scores = torch.empty_like(self.spots.scores)
        for section in self.sections:
            rows = section[self.is_held[section]]
            if len(rows):
                scores[rows] = self.answer(network, rows, ~self.is_held, is_blind, section).fusion.float()
        return scores[self.is_held]


@dataclass
class _Sums:
    """Running means over an epoch."""

    values: Tensor
    n: int = 0

    def add(self, losses: Losses) -> None:
        self.values += torch.stack([losses.total, *losses.parts]).detach()
        self.n += 1

    def means(self) -> list[float]:
        return (self.values / max(self.n, 1)).tolist()


def _schedule(optimizer: torch.optim.Optimizer, n_steps: int, warmup_share: float) -> torch.optim.lr_scheduler.LambdaLR:
    warmup = max(1, round(warmup_share * n_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


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


def _step_losses(network: SpamcafNetwork, lesson: Lesson, number: int, rows: Tensor, fit: FitSettings) -> Losses:
    spots = lesson.sections[number]
    is_visible = torch.rand(len(lesson.is_held), device=rows.device) >= fit.hide_share
    is_blind = bool(torch.rand(()) < fit.blind_share)
    # A part of a large section is enough for its mean, and a step then costs the same on any section.
    section = spots[torch.randperm(len(spots), device=rows.device)[: fit.section_sample]]
    out = lesson.answer(network, rows, is_visible & ~lesson.is_held, is_blind, section)
    return spamcaf_losses(out, lesson.spots.scores[rows], lesson.importance, fit.pearson_weight, fit.branch_weights)


def train_fold(
    network: SpamcafNetwork, lesson: Lesson, fit: FitSettings, after_epoch: Callable[[int, list[float]], None]
) -> bool:
    """Train `network` in place; return whether all losses were finite.

    At the first loss that is not, training stops with the weights of the last whole epoch. `after_epoch` is given
    the epoch and the mean total, L1, L2, L3 and L4. The last weights are kept, never the best ones on the validation
    fold: that fold decides the mixing weight and must not have been chosen on.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay, fused=True)
    train = lesson.train
    steps_per_epoch = sum(_n_batches(len(rows), fit.batch) for rows in train if len(rows))
    schedule = _schedule(optimizer, fit.epochs * steps_per_epoch, fit.warmup_share)
    good = _copy(network)
    for epoch in range(fit.epochs):
        network.train()
        sums = _Sums(torch.zeros(1 + N_PARTS, device=lesson.is_held.device))
        for number, rows in _batches(train, fit.batch):
            losses = _step_losses(network, lesson, number, rows, fit)
            optimizer.zero_grad()
            losses.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), fit.clip_norm)
            if not torch.isfinite(losses.total + norm):
                network.load_state_dict(good)
                return False
            optimizer.step()
            schedule.step()
            sums.add(losses)
        good = _copy(network)
        after_epoch(epoch, sums.means())
    return True


def _copy(network: SpamcafNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

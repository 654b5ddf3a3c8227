"""What one fold learns from, and what its network answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spamcaf.compute import Machine
from spamcaf.learning.sampling import first_seen, nearest_within
from spamcaf.learning.views import SpotView
from spamcaf.network.spamcaf import SpamcafNetwork, SpamcafOutput


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

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from spamcaf.compute import Machine
from spamcaf.learning.lesson import Lesson
from spamcaf.learning.projection import learn_projection
from spamcaf.learning.training import begin, train_fold
from spamcaf.learning.views import SiteView, SpotView
from spamcaf.network.spamcaf import SpamcafNetwork, SpamcafShape
from spamcaf.parameters import FitSettings
from spamcaf.sections.places import Measured

CPU = Machine(torch.device("cpu"), use_bf16=False)
N_PROGRAMS = 2
SHAPE = SpamcafShape(n_components=6, n_programs=N_PROGRAMS, width=8, heads=2, depth=1, dropout=0.0, n_summary=2)


def _no_log(_losses: list[float]) -> None:
    """The log is not this file's business."""


@pytest.fixture
def lesson_of(visible: Measured, folds: np.ndarray) -> Callable[[torch.Tensor], Lesson]:
    """Make the lesson of fold 0 for given scores (spot, program)."""
    sites = visible.sites
    projection = learn_projection(sites.neighbours.reshape(-1, sites.neighbours.shape[-1]), 6)
    centre = sites.neighbours.mean(axis=(0, 1))
    view = SiteView.of(sites, centre, sites.xy_um.mean(axis=0), projection, CPU.device)
    section = np.zeros(len(visible), np.int64)
    importance = torch.full((N_PROGRAMS,), 1 / N_PROGRAMS)

    def make(scores: torch.Tensor) -> Lesson:
        return Lesson.of(SpotView(view, scores), section, sites.xy_um, folds == 0, importance, 5, CPU)

    return make


def _trained(lesson: Lesson) -> SpamcafNetwork:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE)
    fit = FitSettings(epochs=3, batch=16)
    training = begin(network, fit)
    train_fold(training, lesson, fit, _no_log)
    assert training.is_finite and training.epoch == 3
    return network


def test_the_held_folds_expression_is_seen_by_nothing(
    lesson_of: Callable[[torch.Tensor], Lesson], folds: np.ndarray
) -> None:
    scores = torch.randn(len(folds), N_PROGRAMS)
    changed = scores.clone()
    changed[torch.from_numpy(folds == 0)] += 10
    one, other = lesson_of(scores), lesson_of(changed)
    network, network_again = _trained(one), _trained(other)
    for a, b in zip(network.parameters(), network_again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(one.held_scores(network, False), other.held_scores(network_again, False))


def test_a_spots_own_expression_is_not_among_its_context(
    lesson_of: Callable[[torch.Tensor], Lesson], folds: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE).eval()
    scores = torch.randn(len(folds), N_PROGRAMS)
    (rows,) = lesson_of(scores).train
    visible, everything = torch.ones(len(folds), dtype=torch.bool), torch.arange(len(folds))
    for row in rows[:5]:
        changed = scores.clone()
        changed[row] += 10
        out = lesson_of(scores).answer(network, rows, visible, False, everything).fusion
        again = lesson_of(changed).answer(network, rows, visible, False, everything).fusion
        moved = (out - again).abs().amax(1) > 1e-6
        assert not moved[rows == row].any()
        assert moved.any()


def test_blind_means_neither_context_nor_position(
    lesson_of: Callable[[torch.Tensor], Lesson], folds: np.ndarray
) -> None:
    torch.manual_seed(0)
    network = SpamcafNetwork(SHAPE).eval()
    lesson = lesson_of(torch.randn(len(folds), N_PROGRAMS))
    sites = lesson.spots.sites
    moved = SpotView(replace(sites, xy_um=sites.xy_um.flip(0) * 2), torch.randn(len(folds), N_PROGRAMS))
    elsewhere = replace(lesson, spots=moved)
    torch.testing.assert_close(lesson.held_scores(network, True), elsewhere.held_scores(network, True))
    assert not torch.allclose(lesson.held_scores(network, False), elsewhere.held_scores(network, False))

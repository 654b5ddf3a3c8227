"""A fit that is cut off, anywhere, ends with the weights and the log that it would have had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spamcaf.datasets.model import CheckpointFolder
from spamcaf.model import training
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import Fitted, fit_spamcaf
from spamcaf.model.training import Checkpoint, NoCheckpoints
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings

FIT = FitSettings(n_programs=3, epochs=5, batch=20, checkpoint_epochs=2)
NETWORK = NetworkSettings(width=16, heads=2, image_components=6, n_context=5)


N_STEPS = 30

Log = Callable[[str], None] | None


class Killed(Exception):
    """Stands for a kill."""


class Killing:
    """Stops the fit at its `at`-th step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.done = 10**9, 0
        losses = training.step_losses

        def step_losses(*given: object) -> object:
            self.done += 1
            if self.done == self.at:
                raise Killed
            return losses(*given)

        monkeypatch.setattr(training, "step_losses", step_losses)


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Killing:
    return Killing(monkeypatch)


@pytest.fixture(scope="module")
def target_section(visible, folds) -> TrainingSection:
    return TrainingSection(visible, folds)


def _fit(
    target_section: TrainingSection,
    store: CheckpointFolder | None,
    fit: FitSettings = FIT,
    seed: int = 5,
    log: Log = None,
) -> Fitted:
    cpu = ComputeSettings(device="cpu", threads=1)
    return fit_spamcaf(target_section, [], 100.0, fit, NETWORK, cpu, seed, log, store)


@pytest.fixture(scope="module")
def whole(target_section: TrainingSection) -> Fitted:
    return _fit(target_section, None)


def _assert_same(found: Fitted, expected: Fitted) -> None:
    assert found.log == expected.log
    for name, tensor in expected.model.to_tensors().items():
        np.testing.assert_array_equal(found.model.to_tensors()[name], tensor, err_msg=name)


# 3 folds of 5 epochs of 2 steps: before any checkpoint, just after one, within an epoch, in a later fold, at the end
@pytest.mark.parametrize("at", [2, 5, 8, 11, 16, 30])
def test_a_fit_that_is_cut_off_goes_on(
    at: int, target_section: TrainingSection, whole: Fitted, killing: Killing, tmp_path: Path
) -> None:
    killing.at = at
    with pytest.raises(Killed):
        _fit(target_section, CheckpointFolder(tmp_path))
    killing.done, killing.at = 0, 10**9
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    repeated = (at - 1) % 10 % 4  # steps since the last checkpoint of the fold
    assert killing.done == N_STEPS - (at - 1) + repeated


def test_a_fit_that_is_cut_off_again_and_again_goes_on(
    target_section: TrainingSection, whole: Fitted, killing: Killing, tmp_path: Path
) -> None:
    killing.at = 8
    n_killed = 0
    while True:
        try:
            found = _fit(target_section, CheckpointFolder(tmp_path))
            break
        except Killed:
            killing.done = 0
            n_killed += 1
    _assert_same(found, whole)
    assert n_killed >= 4


def test_a_finished_fold_is_not_trained_again(
    target_section: TrainingSection, whole: Fitted, killing: Killing, tmp_path: Path
) -> None:
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    killing.done, told = 0, []
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path), log=told.append), whole)
    assert killing.done == 0
    assert sum("goes on after epoch 5 of 5" in line for line in told) == 3


def test_a_damaged_checkpoint_is_computed_again(
    target_section: TrainingSection, whole: Fitted, killing: Killing, tmp_path: Path
) -> None:
    _fit(target_section, CheckpointFolder(tmp_path))
    path = tmp_path / "fold_1.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    killing.done = 0
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    assert killing.done == N_STEPS // 3


@pytest.mark.parametrize("change", ["seed", "setting", "expression", "picture", "folds"])
def test_what_was_learned_from_other_things_is_not_taken_up(
    change: str, target_section: TrainingSection, killing: Killing, tmp_path: Path
) -> None:
    _fit(target_section, CheckpointFolder(tmp_path))
    killing.done = 0
    measured = target_section.measured
    if change == "seed":
        _fit(target_section, CheckpointFolder(tmp_path), seed=6)
    elif change == "setting":
        _fit(target_section, CheckpointFolder(tmp_path), FIT.model_copy(update={"clip_norm": 0.9}))
    elif change == "expression":
        _fit(
            TrainingSection(measured.at(np.arange(len(measured))[::-1]), target_section.folds),
            CheckpointFolder(tmp_path),
        )
    elif change == "picture":
        neighbours = measured.sites.neighbours.copy()
        neighbours[0, 0] += 1
        sites = type(measured.sites)(measured.sites.xy_um, measured.sites.target, neighbours)
        other = type(measured)(sites, measured.expression, measured.depth)
        _fit(TrainingSection(other, target_section.folds), CheckpointFolder(tmp_path))
    else:
        _fit(TrainingSection(measured, (target_section.folds + 1) % 3), CheckpointFolder(tmp_path))
    assert killing.done == N_STEPS


def test_a_fold_that_diverged_stays_stopped(target_section: TrainingSection, killing: Killing, tmp_path: Path) -> None:
    wild = FIT.model_copy(update={"learning_rate": 1e30})
    found, n_steps = _fit(target_section, CheckpointFolder(tmp_path), wild), killing.done
    assert 0 < n_steps < N_STEPS
    again = _fit(target_section, CheckpointFolder(tmp_path), wild)
    _assert_same(again, found)
    assert killing.done == n_steps


def test_nothing_is_kept_where_there_is_no_store() -> None:
    store = NoCheckpoints()
    store.save("fold_0", "key", Checkpoint({}, {}))
    store.clear()
    assert store.load("fold_0", "key") is None

"""A fit that is cut off, anywhere, ends with the weights and the log that it would have had."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from spamcaf.datasets.model import CheckpointFolder
from spamcaf.model import training
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import Fitted, fit_spamcaf
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings

FIT = FitSettings(n_programs=3, epochs=5, batch=20)
NETWORK = NetworkSettings(width=16, heads=2, image_components=6, n_context=5)
N_STEPS = 30  # 3 folds of 5 epochs of 2 steps
STEPS_PER_FOLD = 10


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
    target_section: TrainingSection, store: CheckpointFolder | None, fit: FitSettings = FIT, seed: int = 5
) -> Fitted:
    cpu = ComputeSettings(device="cpu", threads=1)
    return fit_spamcaf(target_section, [], 100.0, fit, NETWORK, cpu, seed, store)


@pytest.fixture(scope="module")
def whole(target_section: TrainingSection) -> Fitted:
    return _fit(target_section, None)


def _assert_same(found: Fitted, expected: Fitted) -> None:
    assert found.log == expected.log
    for name, tensor in expected.model.to_tensors().items():
        np.testing.assert_array_equal(found.model.to_tensors()[name], tensor, err_msg=name)


# in the first fold, just after it, within a later one, at the end
@pytest.mark.parametrize("at", [2, 11, 16, 30])
def test_a_fit_that_is_cut_off_goes_on_with_the_fold_it_was_in(
    at: int, target_section: TrainingSection, whole: Fitted, killing: Killing, tmp_path: Path
) -> None:
    killing.at = at
    with pytest.raises(Killed):
        _fit(target_section, CheckpointFolder(tmp_path))
    killing.done, killing.at = 0, 10**9
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    assert killing.done == N_STEPS - (at - 1) // STEPS_PER_FOLD * STEPS_PER_FOLD


def test_a_finished_fold_is_not_trained_again(
    target_section: TrainingSection,
    whole: Fitted,
    killing: Killing,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    assert {path.name for path in tmp_path.iterdir()} == {f"fold_{fold}.safetensors" for fold in range(3)}
    killing.done = 0
    caplog.clear()
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    assert killing.done == 0
    assert sum("trained before" in line for line in caplog.messages) == 3


def test_a_damaged_checkpoint_is_computed_again(
    target_section: TrainingSection, whole: Fitted, killing: Killing, tmp_path: Path
) -> None:
    _fit(target_section, CheckpointFolder(tmp_path))
    path = tmp_path / "fold_1.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    killing.done = 0
    _assert_same(_fit(target_section, CheckpointFolder(tmp_path)), whole)
    assert killing.done == STEPS_PER_FOLD


@pytest.mark.parametrize("change", ["seed", "setting", "expression", "features", "folds"])
def test_folds_of_other_inputs_are_not_used(
    change: str, target_section: TrainingSection, killing: Killing, tmp_path: Path
) -> None:
    _fit(target_section, CheckpointFolder(tmp_path))
    killing.done = 0
    measured, store = target_section.measured, CheckpointFolder(tmp_path)
    if change == "seed":
        _fit(target_section, store, seed=6)
    elif change == "setting":
        _fit(target_section, store, FIT.model_copy(update={"clip_norm": 0.9}))
    elif change == "expression":
        _fit(TrainingSection(measured.at(np.arange(len(measured))[::-1]), target_section.folds), store)
    elif change == "features":
        neighbours = measured.sites.neighbours.copy()
        neighbours[0, 0] += 1
        sites = type(measured.sites)(measured.sites.xy_um, measured.sites.target, neighbours)
        other = type(measured)(sites, measured.expression, measured.depth)
        _fit(TrainingSection(other, target_section.folds), store)
    else:
        _fit(TrainingSection(measured, (target_section.folds + 1) % 3), store)
    assert killing.done == N_STEPS


def test_a_fold_that_diverged_stays_stopped(target_section: TrainingSection, killing: Killing, tmp_path: Path) -> None:
    wild = FIT.model_copy(update={"learning_rate": 1e30})
    found, n_steps = _fit(target_section, CheckpointFolder(tmp_path), wild), killing.done
    assert 0 < n_steps < N_STEPS
    again = _fit(target_section, CheckpointFolder(tmp_path), wild)
    _assert_same(again, found)
    assert killing.done == n_steps

"""A fit of the replica that is cut off ends with the weights and the log that it would have had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spamcaf.datasets.model import CheckpointFolder
from spamcaf.model import released
from spamcaf.model.data import TrainingSection
from spamcaf.model.released import fit_released
from spamcaf.parameters import ComputeSettings, ReleasedSettings

SETTINGS = ReleasedSettings(epochs=5, checkpoint_epochs=2)


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(("at", "n_repeated"), [(2, 1), (5, 0)])
def test_a_fit_that_is_cut_off_goes_on(
    at: int,
    n_repeated: int,
    target_section: TrainingSection,
    cpu: ComputeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm = fit_released(target_section, SETTINGS, cpu, seed=5)
    done, of_one = [], released._epoch

    def killed(*given: object) -> object:
        done.append(len(done) + 1)
        if len(done) == at:
            raise Killed
        return of_one(*given)

    monkeypatch.setattr(released, "_epoch", killed)
    with pytest.raises(Killed):
        fit_released(target_section, SETTINGS, cpu, 5, checkpoints=CheckpointFolder(tmp_path))
    found = fit_released(target_section, SETTINGS, cpu, 5, checkpoints=CheckpointFolder(tmp_path))
    assert found.log == calm.log
    for name, tensor in calm.model.to_tensors().items():
        np.testing.assert_array_equal(found.model.to_tensors()[name], tensor, err_msg=name)
    assert len(done) == SETTINGS.epochs + 1 + n_repeated


def test_another_seed_begins_anew(target_section: TrainingSection, cpu: ComputeSettings, tmp_path: Path) -> None:
    fit_released(target_section, SETTINGS, cpu, 5, checkpoints=CheckpointFolder(tmp_path))
    told: list[str] = []
    fit_released(target_section, SETTINGS, cpu, 6, told.append, CheckpointFolder(tmp_path))
    assert not any("goes on" in line for line in told)
    fit_released(target_section, SETTINGS, cpu, 6, told.append, CheckpointFolder(tmp_path))
    assert any("goes on after epoch 4 of 5" in line for line in told)

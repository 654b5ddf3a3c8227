"""A fit whose process is killed at random moments ends with the weights of one that was left in peace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spamcaf.datasets.tensors import read_tensors

FIT = """
import sys
from pathlib import Path

import numpy as np

from spamcaf.datasets.model import CheckpointFolder
from spamcaf.datasets.tensors import write_tensors
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.data import TrainingSection
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.sections.sites import Measured, Sites

store, result = (Path(word) for word in sys.argv[1:])
rng = np.random.default_rng(0)
xy_um = np.stack(np.meshgrid(np.arange(12), np.arange(10)), axis=-1).reshape(-1, 2) * 100.0
windows = rng.normal(size=(120, 9, 16)).astype(np.float32)
rate = np.exp(1 + np.sin(xy_um[:, :1] / 300) * rng.uniform(0, 1, size=(1, 30)) + 0.3 * windows[:, 4, :1])
expression = np.log1p(rng.poisson(rate)).astype(np.float32)
measured = Measured(Sites(xy_um, windows[:, 4], windows), expression, np.full(120, 5000.0))
fit = FitSettings(epochs=40, batch=32, n_programs=4)
network = NetworkSettings(width=16, heads=2, image_components=8)
compute = ComputeSettings(device="cpu", threads=1)
print("begins", flush=True)
model = fit_spamcaf(
    TrainingSection(measured, np.arange(120) % 3), [], 100.0, fit, network, compute, 0, CheckpointFolder(store)
).model
write_tensors(result, model.to_tensors(), model.metadata())
"""

N_KILLS = 3


def _start(folder: Path, result: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FIT, str(folder), str(result)]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None and started.stdout.readline() == "begins\n"
    return started


def _finish(folder: Path, result: Path) -> float:
    started, began = _start(folder, result), time.monotonic()
    assert started.wait(300) == 0
    return time.monotonic() - began


def _newest(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.glob("fold_*")), default=0)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm.safetensors", tmp_path / "killed.safetensors"
    lasted = _finish(tmp_path / "calm", calm)
    store, rng, seen = tmp_path / "store", np.random.default_rng(), []
    for _ in range(N_KILLS):
        started, before = _start(store, killed), _newest(store)
        # after its first own checkpoint, so that every attempt gets further
        while _newest(store) == before and started.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, lasted / (2 * N_KILLS)))
        started.send_signal(signal.SIGKILL)
        seen.append(started.wait())
    assert seen[0] == -signal.SIGKILL
    _finish(store, killed)
    (found, texts), (expected, expected_texts) = read_tensors(killed), read_tensors(calm)
    assert texts == expected_texts
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)

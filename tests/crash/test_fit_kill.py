"""A fit whose process is killed at random moments ends with the weights of one that was left in peace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spamcaf.datasets.model import read_tensors

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")

N_KILLS = 3
SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path

import numpy as np
import safetensors.numpy, sklearn.decomposition, torch._dynamo  # once, not in every fork

from spamcaf.datasets.model import CheckpointFolder, write_tensors
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.sections.sites import Measured, Sites

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])

def fit(store):
    rng = np.random.default_rng(0)
    xy_um = np.stack(np.meshgrid(np.arange(12), np.arange(10)), axis=-1).reshape(-1, 2) * 100.0
    windows = rng.normal(size=(120, 9, 16)).astype(np.float32)
    rate = np.exp(1 + np.sin(xy_um[:, :1] / 300) * rng.uniform(0, 1, size=(1, 30)) + 0.3 * windows[:, 4, :1])
    expression = np.log1p(rng.poisson(rate)).astype(np.float32)
    measured = Measured(Sites(xy_um, windows[:, 4], windows), expression, np.full(120, 5000.0))
    section = TrainingSection(measured, np.arange(120) % 3)
    settings = FitSettings(epochs=10, batch=32, n_programs=4)
    network = NetworkSettings(width=16, heads=2, image_components=8)
    compute = ComputeSettings(device="cpu", threads=1)
    model = fit_spamcaf(section, [], 100.0, settings, network, compute, 0, CheckpointFolder(folder / store)).model
    write_tensors(folder / f"{store}.safetensors", model.to_tensors(), model.metadata())

def forked(store):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fit(store)
            code = 0
        finally:
            os._exit(code)
    return pid

def finish(store):
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(forked(store), 0)[1]) == 0
    return time.monotonic() - began

def newest():
    return max((path.stat().st_mtime_ns for path in (folder / "killed").glob("fold_*")), default=0)

def is_running(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

lasted, codes = finish("calm"), []
for _ in range(n_kills):
    before, pid = newest(), forked("killed")
    # after its first own checkpoint, so that every attempt gets further
    while newest() == before and is_running(pid):
        time.sleep(0.001)
    time.sleep(random.uniform(0, lasted / (2 * n_kills)))
    os.kill(pid, signal.SIGKILL)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
finish("killed")
print(json.dumps(codes))
"""


def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(N_KILLS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[0] == -signal.SIGKILL
    found, texts = read_tensors(tmp_path / "killed.safetensors")
    expected, expected_texts = read_tensors(tmp_path / "calm.safetensors")
    assert texts == expected_texts
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)

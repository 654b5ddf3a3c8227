"""When the process that shares out the work is killed, those that it started end too: they hold the GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROC = Path("/proc")
pytestmark = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="looks for processes in /proc")

SCRIPT = """
import multiprocessing, sys, time
import numpy as np, torch
from torch import nn
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.embedding import EmbeddingJob
from spamcaf.histology.features import FeatureKey
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.workers import Workers, embed_sites
from spamcaf.parameters import TileSettings

if __name__ == "__main__":
    torch.set_num_threads(1)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4096))
    backbone = Backbone(network, (.5,) * 3, (.2,) * 3, BackboneIdentity("t", "", "0", "c", 4096, ""))
    slide = Slide(ArrayPixels(np.zeros((600, 600, 3), np.uint8), "f"), "s")
    xy = np.random.default_rng(0).uniform(0, 600, (400, 2))
    ids = [str(i) for i in range(400)]
    key = FeatureKey("s", "b", "v", "i", 84, block=20)
    job = EmbeddingJob(slide, WindowGeometry.of(TileSettings(), 4.0), ids, xy, key)
    cpu = torch.device("cpu")
    for block in embed_sites(job, backbone, Workers((cpu, cpu), torch.float32, 9, 0), set()):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Return whether a process is alive, and not only waiting for its parent to collect it."""
    try:
        return (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_running, pids))
    time.sleep(1)  # until the queue is full, or all is handed over
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left

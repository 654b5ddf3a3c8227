"""Killed at random moments and started again, feature extraction ends with the store of an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")

N_KILLS = int(os.environ.get("SPAMCAF_KILLS", "8"))
SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np, safetensors.numpy, torch, torch.nn.functional
from torch import nn
from spamcaf.datasets.features import FeaturesDataset, StoredBlocksDataset
from spamcaf.slides.open import open_slide
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.embedding import EmbeddingJob
from spamcaf.histology.features import FeatureKey
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.workers import Workers, embed_sites
from spamcaf.parameters import TileSettings

folder, n_kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
N, BLOCK, BATCH = 40 + 8 * n_kills, 2, 9

class Logged(nn.Conv2d):
    def forward(self, pixels):
        os.write(log, b"%d\\n" % len(pixels))
        return super().forward(pixels).mean(dim=(2, 3))

def run(store):
    global log
    log = os.open(folder / f"{store}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = Backbone(Logged(3, 8, 32, 32).eval(), (.5,) * 3, (.2,) * 3, BackboneIdentity("t", "", "0", "c", 8, ""))
    xy = np.random.default_rng(0).uniform(0, 600, (N, 2))
    ids = [str(i) for i in range(N)]
    key = FeatureKey.of("slide", backbone.identity, {}, 84, ids, xy)
    key = FeatureKey(key.slide, key.backbone, key.view, key.sites, key.window_px, BLOCK)
    stored = StoredBlocksDataset(filepath=str(folder / store)).load()
    done = {block.start for block in stored if block.key == key}
    features = FeaturesDataset(filepath=str(folder / store))
    job = EmbeddingJob(open_slide(folder / "s.tif"), WindowGeometry.of(TileSettings(), 4.0), ids, xy, key)
    for block in embed_sites(job, backbone, Workers((torch.device("cpu"),), torch.float32, BATCH, 2), done):
        features.save(block)

def passes(store):
    path = folder / f"{store}.log"
    return [int(n) for n in path.read_text().split()] if path.exists() else []

def forked(store):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run(store)
            code = 0
        finally:
            os._exit(code)
    return pid

def ended(pid):
    return os.waitpid(pid, os.WNOHANG) != (0, 0)

assert os.waitpid(forked("whole"), 0)[1] == 0
rng, n_killed, losses = random.Random(seed), 0, []
while n_killed < n_kills:
    until = len(passes("killed")) + rng.randint(0, 6)
    pid = forked("killed")
    while len(passes("killed")) < until:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -signal.SIGKILL:
        break
    n_killed += 1
assert os.waitpid(forked("killed"), 0)[1] == 0
tiles = {"whole": sum(passes("whole")), "in all": sum(passes("killed")), "block": BLOCK * 9}
print(json.dumps({"killed": n_killed, **tiles}))
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_kills_at_random_moments_change_no_bit_and_cost_a_block_each(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (600, 640, 3), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", image, photometric="rgb", tile=(64, 64), compression="zlib")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(N_KILLS), "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["killed"] == N_KILLS
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("*.zarr/ids/c.*"))) == (40 + 8 * N_KILLS) / 2
    assert seen["whole"] <= seen["in all"] <= seen["whole"] + seen["killed"] * seen["block"]

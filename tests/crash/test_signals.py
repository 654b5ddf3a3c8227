"""Ctrl-C and SIGTERM end a command soon, with one line and the usual exit code; what it started ends too."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import OFFLINE
from tests.processes import PROC, kill_session, members

pytestmark = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="looks for processes in /proc")

SOON_S = 6.0  # 2 s at most on an idle machine
LINE = "; what is stored stays, the same command goes on from there."
CODES = {signal.SIGINT: (130, f"Interrupted{LINE}"), signal.SIGTERM: (143, f"Terminated{LINE}")}
SECTION = "data/02_intermediate/simulated/.provenance/section.h5ad.json"


@pytest.fixture(scope="module")
def folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small project without any result."""
    folder = tmp_path_factory.mktemp("signals") / "project"
    return Path(shutil.copytree(project, folder, ignore=shutil.ignore_patterns("spamcaf", ".viz", "data")))


def ended_by(number: int, command: list[str], is_ready: Callable[[], object], cwd: Path) -> tuple[int, str, float]:
    """Return exit code, output and seconds of a process whose group gets a signal, as the terminal's Ctrl-C does."""
    with (cwd / "output.txt").open("w+") as output:
        environment = {**os.environ, **OFFLINE, "KEDRO_ENV": "tiny"}
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not is_ready():
                assert process.poll() is None, (cwd / "output.txt").read_text()
                time.sleep(0.02)
            began = time.monotonic()
            os.killpg(process.pid, number)
            code, lasted = process.wait(60), time.monotonic() - began
            while members(process.pid) and time.monotonic() - began < SOON_S:
                time.sleep(0.02)
            left = members(process.pid)
        finally:
            kill_session(process.pid)
            process.wait()
        assert not left
        return code, (cwd / "output.txt").read_text(), lasted


def check(number: int, ended: tuple[int, str, float]) -> None:
    code, output, lasted = ended
    expected, line = CODES[signal.Signals(number)]
    assert code == expected, output
    assert output.splitlines()[-1] == line
    assert output.count(LINE) == 1 and "Traceback" not in output and "leaked" not in output
    assert lasted < SOON_S


@pytest.mark.parametrize("number", CODES)
def test_a_run_ends_soon_and_leaves_nothing_half_written(folder: Path, number: int) -> None:
    shutil.rmtree(folder / "data", ignore_errors=True)
    command = [sys.executable, "-m", "kedro", "run"]
    check(number, ended_by(number, command, (folder / SECTION).exists, folder))
    assert (folder / SECTION).exists() and not list((folder / "data").rglob("*.tmp*"))


def test_a_cohort_ends_with_its_workers(folder: Path) -> None:
    shutil.rmtree(folder / "data", ignore_errors=True)
    words = "cohort --params sections=simulated,masks=0-1 --workers 2 --threads 1"
    command = [sys.executable, "-m", "kedro", *words.split()]
    check(signal.SIGINT, ended_by(signal.SIGINT, command, (folder / SECTION).exists, folder))


def test_a_doctor_ends_soon(folder: Path) -> None:
    # it writes nothing: as soon as the handlers are in place
    command = [sys.executable, "-m", "kedro", "doctor"]
    check(signal.SIGINT, ended_by(signal.SIGINT, command, lambda: any(map(catches_sigterm, PROC.iterdir())), folder))


def catches_sigterm(process: Path) -> bool:
    """Return whether a process is `kedro doctor` with a handler of SIGTERM, which Python itself has none of."""
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", (process / "status").read_text(), re.MULTILINE)
        is_doctor = (process / "cmdline").read_bytes().endswith(b"kedro\0doctor\0")
    except OSError:
        return False
    return is_doctor and caught is not None and bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))


AT_ONCE = """
import os, signal, threading, time

class Early(threading.Thread):  # the signal comes before the first line inside the block
    def start(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

threading.Thread = Early
from spamcaf.signals import ending_soon

with ending_soon():
    pass
"""


def test_a_signal_during_the_first_moment_is_not_lost() -> None:
    ended = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr.strip()) == CODES[signal.SIGINT]


STUBBORN = """
import ctypes, sys, threading, time
from pathlib import Path
from spamcaf.signals import ending_soon

with ending_soon():
    threading.Thread(target=time.sleep, args=(30,)).start()
    Path("ready").touch()
    if sys.argv[1] == "swallows":  # as a broad `except` of a library does
        while True:
            try:
                time.sleep(30)
            except BaseException:
                pass
    if sys.argv[1] == "calls back":  # ctypes prints what a callback raises, and goes on
        back = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda a, b: time.sleep(30) or 0)
        ctypes.CDLL(None).qsort(ctypes.create_string_buffer(2), 2, 1, back)
    if sys.argv[1] == "computes":  # no step of Python for long
        ctypes.CDLL(None).sleep(30)
    time.sleep(30)
"""


@pytest.mark.parametrize("how", ["swallows", "calls back", "computes", "waits for a thread"])
def test_a_process_that_cannot_be_interrupted_ends_all_the_same(tmp_path: Path, how: str) -> None:
    command = [sys.executable, "-c", STUBBORN, how]
    check(signal.SIGINT, ended_by(signal.SIGINT, command, (tmp_path / "ready").exists, tmp_path))


EMBEDDING = """
import numpy as np, torch
from pathlib import Path
from torch import nn
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.embedding import EmbeddingJob
from spamcaf.histology.features import FeatureKey
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.workers import Workers, embed_sites
from spamcaf.parameters import TileSettings
from spamcaf.signals import ending_soon

if __name__ == "__main__":
    torch.set_num_threads(1)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 64))
    backbone = Backbone(network, (.5,) * 3, (.2,) * 3, BackboneIdentity("t", "", "0", "c", 64, ""))
    slide = Slide(ArrayPixels(np.zeros((600, 600, 3), np.uint8), "f"), "s")
    xy = np.random.default_rng(0).uniform(0, 600, (40000, 2))
    ids = [str(i) for i in range(len(xy))]
    job = EmbeddingJob(slide, WindowGeometry.of(TileSettings(), 4.0), ids, xy, FeatureKey("s", "b", "v", "i", 84, 20))
    cpu = torch.device("cpu")
    with ending_soon():
        for block in embed_sites(job, backbone, Workers((cpu, cpu), torch.float32, 9, 0), set()):
            Path("ready").touch()
"""


def test_processes_of_several_devices_end_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(EMBEDDING)
    command = [sys.executable, "script.py"]
    check(signal.SIGINT, ended_by(signal.SIGINT, command, (tmp_path / "ready").exists, tmp_path))

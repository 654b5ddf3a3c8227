"""Changed inputs of every kind end as a section or as an InputError, within limits of time and memory.

The normal suite tries 238; `pytest -m slow tests/fuzz` tries 3500. A seed is printed with each defect:
`SPAMCAF_FUZZ_SEED` and `SPAMCAF_FUZZ_CASES` choose the first seed and the number of inputs.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.seeds import KINDS
from tests.fuzz.worker import DEFECT, READ, REFUSED, SECONDS, warm_up

ROOT = Path(__file__).parents[2]
FEW, MANY = 238, 3500
OUTCOMES = (READ, REFUSED, DEFECT)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for kind, (write, _) in KINDS.items():
        (folder / kind).mkdir()
        write(folder / kind)
    return folder


class Worker:
    """The process that reads; a new one takes the place of one that died or hangs in a library."""

    def __init__(self, bases: Path) -> None:
        self._bases, self._process, self._lines = bases, None, queue.Queue[str]()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.fuzz.worker", str(self._bases)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        self._lines = queue.Queue()
        threading.Thread(target=self._read, args=(process, self._lines), daemon=True).start()
        assert self._lines.get(timeout=300) == "ready\n"
        return process

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    def run(self, kind: str, seed: int) -> dict[str, Any]:
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(f"{kind} {seed}\n")
        process.stdin.flush()
        try:
            line = self._lines.get(timeout=3 * SECONDS)
        except queue.Empty:
            line = ""
        if line:
            return json.loads(line)  # type: ignore[no-any-return]
        try:
            how = f"died with {process.wait(timeout=5)}"
        except subprocess.TimeoutExpired:
            how = "hangs"
        self.stop()
        return {"kind": kind, "seed": seed, "outcome": DEFECT, "mutation": "", "detail": how}

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def fuzz(bases: Path, n_cases: int) -> None:
    first = int(os.environ.get("SPAMCAF_FUZZ_SEED", "0"))
    n_cases = int(os.environ.get("SPAMCAF_FUZZ_CASES", n_cases))
    worker, kinds = Worker(bases), list(KINDS)
    try:
        found = [worker.run(kinds[i % len(kinds)], first + i // len(kinds)) for i in range(n_cases)]
    finally:
        worker.stop()
    counts = Counter(case["outcome"] for case in found)
    by_kind = Counter((case["kind"], case["outcome"]) for case in found)
    rows = [f"{kind}: " + ", ".join(f"{by_kind[kind, how]} {how}" for how in OUTCOMES) for kind in kinds]
    sys.stdout.write("\n".join(("", f"{len(found)} inputs from seed {first}: {dict(counts)}", *rows, "")))
    defects = [case for case in found if case["outcome"] == DEFECT]
    assert not defects, "\n".join(json.dumps(case) for case in defects)
    # a suite that refuses all or reads all tests nothing
    assert all(by_kind[kind, REFUSED] for kind in kinds) and counts[READ] > n_cases // 20


def test_the_valid_inputs_are_read(bases: Path) -> None:
    warm_up(bases)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process")
def test_changed_inputs_are_read_or_refused(bases: Path) -> None:
    fuzz(bases, FEW)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no limits of a process")
def test_many_changed_inputs_are_read_or_refused(bases: Path) -> None:
    fuzz(bases, MANY)

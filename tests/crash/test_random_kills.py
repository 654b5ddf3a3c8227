"""Runs that are killed at random moments, of every pipeline, lose nothing, mix nothing, and leave nothing behind.

Real `kedro` processes with all that they start get SIGKILL at random moments; half of them while something is written.
After each kill every result is what the run before had stored or what this one stores, and its record is of the same
run. The rerun ends with the bytes of a run that was left in peace, and with no other file.

The normal suite kills one chain of pipelines twice; `pytest -m slow -s tests/crash` kills all pipelines, and prints
how often. `SPAMCAF_KILL_SEED` chooses other moments, `SPAMCAF_KILLS` the number of kills for each pipeline.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
import tifffile
import yaml
from PIL import Image

from spamcaf.datasets.features import StoredBlocksDataset
from spamcaf.datasets.model import read_tensors
from spamcaf.readers.matrix import read_matrix
from tests.conftest import OFFLINE
from tests.processes import PROC, kill_session
from tests.servers import Files, serving

pytestmark = pytest.mark.skipif(not (PROC / "self/stat").exists(), reason="looks for processes in /proc")

SEED = int(os.environ.get("SPAMCAF_KILL_SEED") or random.SystemRandom().randrange(10**6))
KILLS = int(os.environ.get("SPAMCAF_KILLS", "8"))  # of each pipeline
PER_RERUN = 2  # kills before a run is left in peace again
UNEQUAL = (("/run_times.json", ".log"), "/cohort/")  # seconds and memory, and what was said when
READERS: dict[str, Callable[[Path], object]] = {
    ".csv": pd.read_csv,
    ".json": lambda path: json.loads(path.read_text()),
    ".geojson": lambda path: json.loads(path.read_text()),
    ".h5ad": anndata.read_h5ad,
    ".safetensors": read_tensors,
    ".png": lambda path: Image.open(path).load(),
    ".html": lambda path: path.read_text().rstrip().endswith("</html>") or 1 / 0,
    ".tif": tifffile.imread,
    ".h5": read_matrix,
    ".zarr": spatialdata.read_zarr,
}

State = dict[str, str]  # digests of what is stored, by path below data/


@dataclass
class Pipeline:
    """A command in a project, with two choices of settings in turns, so that each run replaces results of the other."""

    folder: Path
    words: tuple[str, ...]
    params: tuple[str, str]
    env: str = "tiny"
    result: str | None = None  # of a command that replaces nothing: removed before each run
    is_refused_over: bool = False  # refused where its result is there, which is then whole
    is_made: bool = False  # an uninterrupted run of the first choice
    whole: list[State] = field(default_factory=list)  # after an uninterrupted run of each choice
    seconds: list[float] = field(default_factory=list)
    n_kills: int = 0
    n_writing: int = 0
    n_reruns: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @contextmanager
    def started(self, choice: int) -> Iterator[subprocess.Popen[bytes]]:
        words = [*self.words, "--params", self.params[choice]]
        environment = {**os.environ, **OFFLINE, "KEDRO_ENV": self.env, "NO_PROXY": "127.0.0.1"}
        with (self.folder / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "kedro", *words],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                kill_session(process.pid)
                process.wait()

    def finish(self, choice: int) -> None:
        """Run to the end."""
        began = time.monotonic()
        with self.started(choice) as process:
            assert process.wait(900) == 0, (self.folder / "output.txt").read_text()
        self.seconds = [*self.seconds, time.monotonic() - began][-2:]

    def kill(self, choice: int, rng: random.Random) -> bool:
        """Run, and kill at a random moment; tell whether the run was killed and not ended before."""
        moment = time.monotonic() + rng.uniform(0.2, 1.0) * min(self.seconds)
        is_for_writing, delay = rng.random() < 0.5, rng.uniform(0.0, 0.03)
        with self.started(choice) as process:
            while process.poll() is None and time.monotonic() < moment:
                time.sleep(0.01)
            while is_for_writing and process.poll() is None and not half_written(self.data):
                time.sleep(0.002)
            time.sleep(delay)
            kill_session(process.pid)
            is_killed = process.wait() == -9
        self.n_kills += is_killed
        self.n_writing += is_killed and bool(half_written(self.data))
        return is_killed

    def survive(self, n_kills: int, rng: random.Random) -> None:
        """Make both choices in peace, then in turns with kills; each must end as it did in peace."""
        for choice in range(1 if self.result else 2):
            if choice or not self.is_made:
                self.forget()
                self.finish(choice)
            self.whole.append(state_of(self.data))
            assert not half_written(self.data)
        known: set[str] = set()
        while self.n_kills < n_kills:
            choice = 0 if self.result else self.n_reruns % 2
            self.forget()
            for _ in range(PER_RERUN):
                is_killed = self.kill(choice, rng)
                self.check(known)
                if not is_killed and self.result:
                    break  # what it would write is there
            if not (self.is_refused_over and self.result and (self.folder / self.result).exists()):
                self.finish(choice)
            self.n_reruns += 1
            ended = state_of(self.data)
            assert differences(ended, self.whole[choice]) == []
            assert half_written(self.data) == []

    def forget(self) -> None:
        if self.result:
            shutil.rmtree(self.folder / self.result, ignore_errors=True)

    def check(self, known: set[str]) -> None:
        """Check that each result is one of an uninterrupted run, beside a record of the same run, and can be read."""
        for place, digest in state_of(self.data).items():
            path = self.data / place
            if is_in_progress(place):
                if path.suffix == ".safetensors":
                    read_tensors(path)
                continue
            matching = [whole for whole in self.whole if whole.get(place) == digest]
            assert matching or place.endswith(UNEQUAL[0]) or UNEQUAL[1] in place, f"{place} is of no whole run"
            record = path.parent / ".provenance" / f"{path.name}.json"
            if matching and record.exists():
                recorded, its_place = digest_of(record), str(record.relative_to(self.data))
                assert any(whole.get(its_place) == recorded for whole in matching), f"{place} with another run's record"
            if digest not in known:
                READERS.get(path.suffix, Path.read_bytes)(path)
                known.add(digest)
        for store in self.data.glob("04_feature/*/*_features"):
            StoredBlocksDataset(filepath=str(store)).load()

    def __str__(self) -> str:
        kills = f"{self.n_kills} kills, {self.n_writing} of them while something was written"
        return f"{' '.join(self.words)}: {kills}; {self.n_reruns} reruns equal, {len(self.whole[0])} results"


def half_written(data: Path) -> list[str]:
    """Return temporary files and folders."""
    found = []
    for folder, folders, files in os.walk(data):
        found += [f"{folder}/{name}" for name in (*folders, *files) if is_temporary(name)]
    return found


def is_temporary(name: str) -> bool:
    return ".tmp" in name or ".part" in name or name.endswith((".old", ".unpacking"))


def is_in_progress(place: str) -> bool:
    """Return whether a path is of something that grows while a run works, and that a rerun goes on from."""
    return place.startswith("04_feature/") or "fit_checkpoints/" in place


def state_of(data: Path) -> State:
    """Return the digest of each file, and of each SpatialData folder as a whole; without locks and temporary paths."""
    state: State = {}
    for folder, folders, files in os.walk(data):
        below = Path(folder).relative_to(data)
        for name in list(folders):
            is_result = name.endswith(".zarr") and below.parts[:1] != ("04_feature",)
            if is_result and not is_temporary(name):
                state[str(below / name)] = digest_of(Path(folder, name))
            if is_result or is_temporary(name) or name == ".locks":
                folders.remove(name)
        with suppress(FileNotFoundError):
            state |= {str(below / name): digest_of(Path(folder, name)) for name in files if not is_temporary(name)}
    return state


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        content = file.read_bytes()
        if file.name == "report.html":
            content = re.sub(rb">(date|command)</th><td>[^<]*", b"", content)  # of the run that made it
        if file.name == "download_report.json":
            content = re.sub(rb'"(status|source)": "[^"]*"', b"", content)  # "present" where fetched before the kill
        digest.update(f"{file.relative_to(path)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def differences(found: State, expected: State) -> list[str]:
    both = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
    return sorted(name for name in both if not (name.endswith(UNEQUAL[0]) or UNEQUAL[1] in name))


def report(pipeline: Pipeline) -> None:
    sys.stdout.write(f"\n{pipeline} (seed {SEED})\n")


def test_a_chain_of_pipelines_survives_kills(copy_finished: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = copy_finished(tmp_path / "project")
    words = ("run", "--pipelines", "training,inference,evaluation")
    chain = Pipeline(folder, words, ("split.mask=0", "fit.use_network=false"), is_made=True)
    chain.survive(2, random.Random(SEED))
    report(chain)


CSV = "section,run,split.mask\nsimulated,default,\nsimulated,b,1\n"
FAST = "fit.use_network=false"


@pytest.fixture
def make(request: pytest.FixtureRequest, finished: Path, tmp_path: Path) -> Callable[[str], Pipeline]:
    """Return a function that gives the command of a name in a project of its own."""

    def chain() -> Pipeline:
        return Pipeline(finished, ("run",), ("split.mask=0", "split.mask=1,tiles.views=2"))

    def simulation() -> Pipeline:
        words = ("run", "--pipeline", "simulation")
        place = "data/01_raw/simulated"
        return Pipeline(finished, words, ("seed=1", "seed=1"), result=place, is_refused_over=True)

    def transfer() -> Pipeline:
        env = finished / "conf/unseen"
        shutil.copytree(finished / "conf/tiny", env)
        settings = yaml.safe_load((env / "globals.yml").read_text())
        raw = finished / "raw"
        raw.mkdir()
        pixels = np.random.default_rng(0).integers(0, 60, (400, 400, 3)) + np.array([150, 90, 140])
        pixels[:40], pixels[-40:], pixels[:, :40], pixels[:, -40:] = 245, 245, 245, 245
        tifffile.imwrite(raw / "unseen.tif", pixels.astype(np.uint8), photometric="rgb", tile=(64, 64))
        settings |= {"source": "files", "raw_root": str(raw), "section": "unseen"}
        (env / "globals.yml").write_text(yaml.safe_dump(settings))
        both = ("model=simulated,transfer.mpp=2", "model=simulated,transfer.mpp=2,transfer.pitch_um=120")
        return Pipeline(finished, ("run", "--pipelines", "transfer"), both, env="unseen")

    def benchmark() -> Pipeline:
        both = (f"masks=0-1,{FAST},panel.n_genes=30", f"masks=0-1,{FAST},panel.n_genes=20")
        return Pipeline(finished, ("run", "--pipelines", "benchmark"), both)

    def cohort() -> Pipeline:
        (finished / "cohort.csv").write_text(CSV)
        words = ("cohort", "--workers", "2", "--threads", "1")
        both = (f"sections=cohort.csv,{FAST}", f"sections=cohort.csv,{FAST},panel.n_genes=30")
        return Pipeline(finished, words, both)

    def download() -> Pipeline:
        server = request.getfixturevalue("published")
        env = finished / "conf/published"
        env.mkdir()
        files = [
            {"path": f"{{section}}/{name}.bin", "urls": f"http://127.0.0.1:{server.server_port}/{name}.bin"}
            for name in NAMES
        ]
        settings = {"section": "S1", "raw_root": "data/01_raw/published", "downloads": files}
        (env / "globals.yml").write_text(yaml.safe_dump(settings))
        words = ("run", "--pipeline", "download")
        return Pipeline(finished, words, ("seed=1", "seed=1"), env="published", result="data/01_raw/published")

    makers = {f.__name__: f for f in (chain, simulation, transfer, benchmark, cohort, download)}
    return lambda name: makers[name]()


NAMES = ("one", "two", "three")


class Slow(Files):
    """Sends a file in pieces, so that a kill meets one half-way."""

    def copyfile(self, source: object, outputfile: object) -> None:
        with suppress(ConnectionError):
            while piece := source.read(50_000):  # type: ignore[attr-defined]
                outputfile.write(piece)  # type: ignore[attr-defined]
                time.sleep(0.05)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Return a server of three files."""
    folder = tmp_path / "published"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / f"{name}.bin").write_bytes(random.Random(seed).randbytes(1_000_000))
    with serving(partial(Slow, directory=str(folder))) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chain", "simulation", "transfer", "benchmark", "cohort", "download"])
def test_each_pipeline_survives_kills(make: Callable[[str], Pipeline], name: str) -> None:
    pipeline = make(name)
    pipeline.survive(2 * KILLS if name == "chain" else KILLS, random.Random(f"{SEED} {name}"))
    report(pipeline)

"""Locks of results: one writer, many readers, and nothing left of a process that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline

from spamcaf.datasets.stored import AtomicDataset
from spamcaf.errors import InputError
from spamcaf.hooks import RunLock
from spamcaf.locks import LOCKS, locked, place_of

Run = Callable[..., subprocess.CompletedProcess[str]]
HOLDER = """
import sys, time
from pathlib import Path
from spamcaf.locks import locked
with locked(Path(sys.argv[1]), tuple(sys.argv[2].split("/")), is_shared=sys.argv[3] == "shared"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(data: Path, place: str, kind: str = "alone"):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data), place, kind], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_second_writer_is_refused_with_the_process_that_holds_it(tmp_path: Path) -> None:
    with holder(tmp_path, "C2/default") as process:
        with pytest.raises(InputError, match=rf"C2 in run default that process {process.pid} on .* working on.*Wait"):
            with locked(tmp_path, ("C2", "default")):
                pass
        with locked(tmp_path, ("C2", "other")), locked(tmp_path, ("C3", "default")):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(tmp_path, ("C2", "default")):
            assert (tmp_path / LOCKS / "C2+default.lock").read_text().startswith(f"process {os.getpid()} ")


def test_readers_share_and_keep_a_writer_out(tmp_path: Path) -> None:
    with holder(tmp_path, "C2", "shared"):
        with locked(tmp_path, ("C2",), is_shared=True):
            pass
        with pytest.raises(InputError, match="results of C2 that process"), locked(tmp_path, ("C2",)):
            pass
    with locked(tmp_path, ("C2",)):
        with locked(tmp_path, ("C2",)), locked(tmp_path, ("C2",), is_shared=True):
            pass  # a run inside a run of the same process
        reader = [sys.executable, "-c", HOLDER, str(tmp_path), "C2", "shared"]
        done = subprocess.run(reader, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"process {os.getpid()} on" in done.stderr


def test_places_are_section_and_run() -> None:
    data = Path("/p/data")
    assert place_of(data / "04_feature/C2/spot_features", data) == ("C2",)
    assert place_of(data / "08_reporting/C2/default/scores.json", data) == ("C2", "default")
    assert place_of(data / "01_raw/simulated", data) == place_of(Path("/elsewhere/x"), data) == ()


def test_a_run_locks_what_it_writes_and_shares_what_it_reads(tmp_path: Path) -> None:
    def entry(path: str) -> AtomicDataset:
        return AtomicDataset(filepath=str(tmp_path / "data" / path), dataset={"type": "json.JSONDataset"})

    catalog = DataCatalog({"a": entry("02_intermediate/C2/a.json"), "b": entry("08_reporting/C2/default/b.json")})
    pipeline = Pipeline([Node(lambda a: a, "a", "b", name="copy")])
    hook, data = RunLock(), tmp_path / "data"
    hook._data = data
    with holder(data, "C2", "shared"):
        hook.before_pipeline_run(pipeline=pipeline, catalog=catalog)
        with holder(data, "C2", "shared"):
            pass
        writer = [sys.executable, "-c", HOLDER, str(data), "C2/default", "alone"]
        assert subprocess.run(writer, capture_output=True, check=False).returncode == 1
        hook.after_pipeline_run()
        with holder(data, "C2/default"), pytest.raises(InputError, match="C2 in run default"):
            hook.before_pipeline_run(pipeline=pipeline, catalog=catalog)
    with holder(data, "C2"):  # the refused run holds nothing
        pass


def test_a_run_of_a_section_that_is_worked_on_ends_in_one_sentence(kedro: Run, finished: Path) -> None:
    with holder(finished / "data", "simulated/default") as process:
        done = kedro("run", "--pipelines", "evaluation", folder=finished)
        assert done.returncode == 1 and f"process {process.pid} on" in done.stderr
        assert "Traceback" not in done.stderr
    done = kedro("run", "--nodes", "evaluation.join_scores", folder=finished)
    assert done.returncode == 0, done.stderr

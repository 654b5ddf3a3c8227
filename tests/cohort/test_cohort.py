"""`kedro cohort` on two workers: it and a worker are killed, a section fails, a rerun repeats nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from spamcaf.locks import LOCKS
from tests.conftest import OFFLINE

Run = Callable[..., subprocess.CompletedProcess[str]]
ROWS = "section,run,split.mask\nsimulated,default,\nsimulated,b,1\nnobody,default,\n"
WORDS = ("cohort", "--params", "sections=cohort.csv", "--workers", "2", "--threads", "1")
REPORTING = "data/08_reporting"
EQUAL = (
    "04_feature/simulated/spot_features",
    "04_feature/simulated/grid_features",
    "06_models/simulated/default/model.safetensors",
    "06_models/simulated/default/full_model.safetensors",
    "08_reporting/simulated/default/gene_scores.csv",
    "08_reporting/simulated/default/scores.json",
)


@pytest.fixture(scope="module")
def folder(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small project without any result."""
    folder = tmp_path_factory.mktemp("cohort") / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("spamcaf", ".viz", "data"))
    (folder / "cohort.csv").write_text(ROWS)
    return folder


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "kedro", *WORDS]
    environment = {**os.environ, **OFFLINE, "KEDRO_ENV": "tiny"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 400
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def worker_of(folder: Path, place: str) -> int:
    """Return the process that holds a lock, once there is one."""
    lock = folder / "data" / LOCKS / f"{place}.lock"
    wait_for(lambda: lock.exists() and lock.read_text())
    return int(lock.read_text().split()[1])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {str(p.relative_to(path)): p.read_bytes() for p in files if ".provenance" not in p.parts}


def times(folder: Path) -> dict[str, int]:
    found = [p for layer in (folder / "data").glob("0[2-8]*") for p in layer.rglob("*") if p.is_file()]
    return {str(p): p.stat().st_mtime_ns for p in found if "cohort" not in p.parts}


def test_a_cohort_survives_kills_and_equals_single_runs(
    kedro: Run, first_run: subprocess.CompletedProcess[str], project: Path, folder: Path
) -> None:
    checked = folder / "data/02_intermediate/simulated/.provenance/section.h5ad.json"
    with started(folder) as process:  # killed while it works on what both runs share
        worker = worker_of(folder, "simulated")
        wait_for(checked.exists)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for(lambda: not is_running(worker))
    before = times(folder)

    with started(folder) as process:
        worker = worker_of(folder, "simulated+b")
        refused = kedro("run", "--pipelines", "ingestion", "--params", "run=b,split.mask=1", folder=folder)
        # the section's own results are read by both runs: either of their processes is named
        assert refused.returncode == 1, refused.stdout + refused.stderr
        assert re.search(r"process \d+ on \S+ is working on", refused.stderr), refused.stderr
        os.kill(worker, signal.SIGKILL)
        output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    assert re.search(r"^simulated, shared by its runs: done", output, re.MULTILINE), output
    section = str(folder / "data/02_intermediate/simulated/section.h5ad")
    assert times(folder)[section] == before[section]
    assert re.search(r"^simulated/b: done", output, re.MULTILINE), output
    assert len(re.findall(r"^nobody/default: failed", output, re.MULTILINE)) == 1
    assert "Traceback" not in output and "distributed" not in output and "\nreport: " in output

    for path in EQUAL:
        found, expected = contents(folder / "data" / path), contents(project / "data" / path)
        assert expected and found == expected, path


def test_the_table_and_the_report_tell_how_each_run_ended(folder: Path) -> None:
    table = pd.read_csv(folder / REPORTING / "cohort/default/cohort.csv", keep_default_na=False)
    assert table[["section", "run", "status"]].to_numpy().tolist() == [
        ["simulated", "default", "done"],
        ["simulated", "b", "done"],
        ["nobody", "default", "failed"],
    ]
    assert "nobody" in table["reason"][2] and "environment" in table["next_step"][2] and not table["reason"][0]
    scores = json.loads((folder / REPORTING / "simulated/b/scores.json").read_text())
    assert float(table["pcc_mean"][1]) == scores["models"]["spamcaf"]["pcc_mean"]
    assert int(table["peak_memory_bytes"][0]) > 10**8 and float(table["seconds"][0]) > 0
    record = json.loads((folder / REPORTING / "cohort/default/cohort.json").read_text())
    assert [run["status"] for run in record["runs"]] == ["done", "done", "failed"]
    page = (folder / REPORTING / "cohort/default/report.html").read_text()
    links = re.findall(r'href="([^"#]+)"', page)
    assert len(links) == 2 and all((folder / REPORTING / "cohort/default" / link).is_file() for link in links)
    assert "no section &#39;nobody&#39;" in page and "simulated/b" in page


def test_a_second_time_nothing_is_repeated(kedro: Run, folder: Path) -> None:
    (folder / "cohort.csv").write_text(ROWS.replace("nobody,default,\n", ""))
    before = times(folder)
    done = kedro(*WORDS, "--workers", "1", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("was done") >= 4 and ": done" not in done.stdout
    assert times(folder) == before

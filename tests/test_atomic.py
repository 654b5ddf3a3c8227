"""Saves that replace a file or folder whole, and what killed ones leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spamcaf import atomic
from spamcaf.atomic import remove_left_over, replacing

HANGING = """
import sys, time
from pathlib import Path
from spamcaf.atomic import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def save(path: Path, text: str, *, folder: bool = False) -> None:
    with replacing(path) as temporary:
        if folder:
            temporary.mkdir()
        (temporary / "part" if folder else temporary).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_save_left_is_gone_after_the_next(tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    save(path, "old")
    process = subprocess.Popen([sys.executable, "-c", HANGING, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    remove_left_over(path)
    assert len(names(tmp_path)) == 2, "a save that is under way is left alone"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_text() == "old"
    save(tmp_path / "other.csv", "x")
    assert len(names(tmp_path)) == 3
    save(path, "new")
    assert names(tmp_path) == ["other.csv", "result.csv"] and path.read_text() == "new"


def test_what_other_machines_and_programs_left_stays(tmp_path: Path) -> None:
    dead = _dead_pid()
    for name in (f".a.00000000-{dead}-12345678.tmp.csv", ".a.12345678.tmp.csv", f".a.csv.00000000-{dead}-12345678.old"):
        (tmp_path / name).write_text("x")
    save(tmp_path / "a.csv", "new")
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    for text in ("old", "new"):
        save(tmp_path / "map.zarr", text, folder=True)
    assert (tmp_path / "map.zarr/part").read_text() == "new" and names(tmp_path) == ["map.zarr"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_folder_is_never_missing_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.zarr"
    save(path, "old", folder=True)
    moved = []
    monkeypatch.setattr(os, "replace", lambda *paths: moved.append(paths))
    save(path, "new", folder=True)
    assert not moved and (path / "part").read_text() == "new"


def test_a_folder_that_stepped_aside_comes_back(tmp_path: Path) -> None:
    """Where the system cannot exchange, a kill between the two renames leaves the old folder aside."""
    mark = f"{atomic._host()}-{_dead_pid()}-12345678"
    for name in (f".map.zarr.{mark}.old", f".map.{mark}.tmp.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("old")
    remove_left_over(tmp_path / "map.zarr")
    assert names(tmp_path) == ["map.zarr"] and (tmp_path / "map.zarr/part").read_text() == "old"


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid

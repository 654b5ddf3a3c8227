"""Every stored result: a save that fails or is killed leaves the previous one, and leaves nothing else behind."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from kedro.io import DatasetError
from matplotlib.figure import Figure

import spamcaf.errors
from spamcaf.datasets.anndata import AnnDataDataset
from spamcaf.datasets.stored import AtomicJSONDataset, CSVDataset, FigureDataset, HTMLDataset, StoredDataset
from spamcaf.datasets.tissue import TissueDataset
from spamcaf.errors import InputError
from spamcaf.histology.tissue import Tissue

NOT_UTF8 = "half \ud800 a character"


@dataclass(frozen=True)
class Case:
    """One kind of dataset, with data that can be stored and data whose storing fails half-way."""

    kind: type[StoredDataset[Any, Any]]
    suffix: str
    good: Callable[[], Any]
    bad: Callable[[], Any]


def figure(title: str) -> Figure:
    made = Figure(figsize=(2, 2))
    made.subplots().set_title(title)
    return made


CASES = [
    Case(
        AnnDataDataset,
        ".h5ad",
        lambda: AnnData(np.eye(3, dtype=np.float32)),
        lambda: AnnData(np.ones((3, 3), np.float32), uns={"unwritable": object()}),
    ),
    Case(
        CSVDataset,
        ".csv",
        lambda: pd.DataFrame({"a": [1]}),
        lambda: pd.DataFrame({"a": pd.Series(["b", NOT_UTF8], dtype=object)}),
    ),
    Case(AtomicJSONDataset, ".json", lambda: {"a": 1}, lambda: {"a": NOT_UTF8}),
    Case(HTMLDataset, ".html", lambda: "<p>good</p>", lambda: NOT_UTF8),
    Case(FigureDataset, ".png", lambda: figure("good"), lambda: figure(r"$\frac{$")),
    Case(
        TissueDataset,
        ".png",
        lambda: Tissue(np.eye(4, dtype=bool), np.full((4, 4, 3), 9, np.uint8), 7.5),
        lambda: Tissue(np.eye(4, dtype=bool), np.full((5, 4, 3), 9, np.uint8), 7.5),
    ),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.__name__)


def dataset_of(case: Case, folder: Path) -> StoredDataset[Any, Any]:
    return case.kind(filepath=str(folder / f"result{case.suffix}"))


@each
def test_a_failing_save_keeps_the_previous_result_and_leaves_nothing(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    dataset.save(case.good())
    before = (tmp_path / f"result{case.suffix}").read_bytes()
    with pytest.raises(DatasetError):
        dataset.save(case.bad())
    assert [path.name for path in tmp_path.iterdir()] == [f"result{case.suffix}"]
    assert (tmp_path / f"result{case.suffix}").read_bytes() == before
    dataset.load()


@each
def test_a_first_save_that_fails_leaves_no_result(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    with pytest.raises(DatasetError):
        dataset.save(case.bad())
    assert not dataset.exists()
    assert list(tmp_path.iterdir()) == []


@each
def test_what_is_not_there_is_said_with_the_next_step(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    assert not dataset.exists()
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert "Run the whole chain once" in str(InputError.within(caught.value))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.kind not in {HTMLDataset, CSVDataset}], ids=lambda case: case.kind.__name__
)
def test_a_truncated_file_is_said_to_be_damaged(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    dataset.save(case.good())
    path = tmp_path / f"result{case.suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert "result" in str(InputError.within(caught.value))


class Mistaken(AtomicJSONDataset):
    """Reads by a call that the installed library does not know, as after an update of it."""

    def _read(self, path: Path) -> Any:
        return missing_argument(path)


def missing_argument(path: Path) -> Any:
    # compiled as a line of the package, as a mistake of ours is
    file = str(Path(spamcaf.errors.__file__).with_name("mistake.py"))
    scope: dict[str, Any] = {"read": Path.read_text}
    exec(compile("def call(path): return read(path, mistaken=1)", file, "exec"), scope)
    return scope["call"](path)


def test_a_fault_of_the_program_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    dataset = Mistaken(filepath=str(tmp_path / "result.json"))
    dataset.save({"a": 1})
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert InputError.within(caught.value) is None
    assert isinstance(caught.value.__cause__, TypeError)


@each
def test_kedro_viz_knows_the_kind_of_preview(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    dataset.save(case.good())
    kind = inspect.signature(dataset.preview).return_annotation  # type: ignore[attr-defined]
    assert kind in {"TablePreview", "JSONPreview", "HTMLPreview", "ImagePreview"}
    assert dataset.preview()  # type: ignore[attr-defined]


KILLED_ANNDATA = """
import os, signal, sys
import h5py, numpy as np
from anndata import AnnData
from spamcaf.datasets.anndata import AnnDataDataset
create, calls = h5py.Group.create_dataset, []
def killing(self, *args, **kwargs):
    calls.append(create(self, *args, **kwargs))
    if len(calls) == 4:
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return calls[-1]
h5py.Group.create_dataset = killing
AnnDataDataset(filepath=sys.argv[1]).save(AnnData(np.zeros((300, 300), np.float32), layers={"a": np.ones((300, 300))}))
"""

KILLED_BEFORE_THE_MOVE = """
import os, signal, sys
from spamcaf.datasets.stored import AtomicJSONDataset
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
AtomicJSONDataset(filepath=sys.argv[1]).save({"new": True})
"""


def run_until_killed(script: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, check=False, env=dict(os.environ), timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def test_a_kill_while_writing_h5ad_keeps_the_previous_file(tmp_path: Path) -> None:
    dataset = AnnDataDataset(filepath=str(tmp_path / "result.h5ad"))
    dataset.save(AnnData(np.eye(3, dtype=np.float32)))
    run_until_killed(KILLED_ANNDATA, tmp_path / "result.h5ad")
    half = [path for path in tmp_path.iterdir() if path.name != "result.h5ad"]
    assert len(half) == 1, "the kill came before anything was written"
    assert half[0].stat().st_size > 0
    assert np.array_equal(dataset.load().X, np.eye(3))
    dataset.save(AnnData(np.ones((2, 2), np.float32)))
    assert dataset.load().shape == (2, 2)


def test_a_kill_after_writing_and_before_the_move_keeps_the_previous_file(tmp_path: Path) -> None:
    dataset = AtomicJSONDataset(filepath=str(tmp_path / "result.json"))
    dataset.save({"old": True})
    run_until_killed(KILLED_BEFORE_THE_MOVE, tmp_path / "result.json")
    assert dataset.load() == {"old": True}

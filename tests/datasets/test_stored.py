"""Every stored result: a save that fails or is killed leaves the previous one, and leaves nothing else behind."""

from __future__ import annotations

import base64
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError
from matplotlib.figure import Figure
from PIL import Image
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

import spamcaf.errors
from spamcaf.datasets.stored import AnnDataDataset, AtomicDataset, SpatialDataDataset, StoredDataset, TissueDataset
from spamcaf.errors import InputError
from spamcaf.histology.tissue import Tissue

NOT_UTF8 = "half \ud800 a character"


@dataclass(frozen=True)
class Case:
    """One kind of dataset, with data that can be stored and data whose storing fails half-way."""

    make: Callable[..., StoredDataset[Any, Any]]
    suffix: str
    good: Callable[[], Any]
    bad: Callable[[], Any]


def figure(title: str) -> Figure:
    made = Figure(figsize=(2, 2))
    made.subplots().set_title(title)
    return made


table = partial(AtomicDataset, dataset={"type": "pandas.CSVDataset"})
record = partial(AtomicDataset, dataset={"type": "json.JSONDataset"})
page = partial(AtomicDataset, dataset={"type": "text.TextDataset"})
plot = partial(AtomicDataset, dataset={"type": "matplotlib.MatplotlibDataset"})
CASES = [
    Case(
        AnnDataDataset,
        ".h5ad",
        lambda: AnnData(np.eye(3, dtype=np.float32)),
        lambda: AnnData(np.ones((3, 3), np.float32), uns={"unwritable": object()}),
    ),
    Case(
        table,
        ".csv",
        lambda: pd.DataFrame({"a": [1]}),
        lambda: pd.DataFrame({"a": pd.Series(["b", NOT_UTF8], dtype=object)}),
    ),
    Case(record, ".json", lambda: {"a": 1}, lambda: {"a": NOT_UTF8}),
    Case(page, ".html", lambda: "<p>good</p>", lambda: NOT_UTF8),
    Case(plot, ".png", lambda: figure("good"), lambda: figure(r"$\frac{$")),
    Case(
        TissueDataset,
        ".png",
        lambda: Tissue(np.eye(4, dtype=bool), np.full((4, 4, 3), 9, np.uint8), 7.5),
        lambda: Tissue(np.eye(4, dtype=bool), np.full((5, 4, 3), 9, np.uint8), 7.5),
    ),
]
IDS_OF_CASES = ["anndata", "table", "record", "page", "plot", "tissue"]
each = pytest.mark.parametrize("case", CASES, ids=IDS_OF_CASES)


def dataset_of(case: Case, folder: Path) -> StoredDataset[Any, Any]:
    return case.make(filepath=str(folder / f"result{case.suffix}"))


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
def test_what_is_not_there_is_reported_with_the_next_step(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    assert not dataset.exists()
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert "Run the whole chain once" in str(InputError.within(caught.value))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.make not in {page, table}], ids=["anndata", "record", "plot", "tissue"]
)
def test_a_truncated_file_is_reported_as_damaged(case: Case, tmp_path: Path) -> None:
    dataset = dataset_of(case, tmp_path)
    dataset.save(case.good())
    path = tmp_path / f"result{case.suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert "result" in str(InputError.within(caught.value))


class Mistaken(AtomicDataset):
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
    dataset = Mistaken(filepath=str(tmp_path / "result.json"), dataset={"type": "json.JSONDataset"})
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
from spamcaf.datasets.stored import AnnDataDataset
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
from spamcaf.datasets.stored import AtomicDataset
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
AtomicDataset(filepath=sys.argv[1], dataset={"type": "json.JSONDataset"}).save({"new": True})
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
    dataset = record(filepath=str(tmp_path / "result.json"))
    dataset.save({"old": True})
    run_until_killed(KILLED_BEFORE_THE_MOVE, tmp_path / "result.json")
    assert dataset.load() == {"old": True}


IDS = ["1", "0001", "007", "1e3", "NA", "nan", "None", "inf", "TRUE", "1.0", "-1", " A", "B ", 'a"b', "a,b", "\u00e9"]
COLUMNS = ["barcode", "gene", "gene_ids", "site_id", "parent_barcode", "library_id", "label"]


@pytest.mark.parametrize("n", [1, 3, len(IDS)])
@pytest.mark.parametrize("column", COLUMNS)
def test_ids_are_text_as_they_were_written(tmp_path: Path, column: str, n: int) -> None:
    dataset = table(filepath=str(tmp_path / "table.csv"))
    dataset.save(pd.DataFrame({column: IDS[:n], "fold": range(n)}))
    loaded = dataset.load()
    assert loaded[column].tolist() == IDS[:n]
    assert all(type(name) is str for name in loaded[column])
    assert loaded["fold"].dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(st.lists(st.from_regex(r"[-+.0-9eEnaNAifTRUFLSxX_]{1,6}", fullmatch=True), min_size=1, max_size=5))
def test_any_id_comes_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    dataset = table(filepath=str(tmp_path_factory.mktemp("csv") / "table.csv"))
    dataset.save(pd.DataFrame({"barcode": names}))
    assert dataset.load()["barcode"].tolist() == names


def test_numbers_come_back_to_the_last_digit_without_a_warning(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(0, 1, 1000) * 10.0 ** np.random.default_rng(1).integers(-30, 30, 1000)
    dataset = table(filepath=str(tmp_path / "table.csv"))
    dataset.save(pd.DataFrame({"pcc": numbers}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(dataset.load()["pcc"], numbers)


def test_arguments_of_the_catalog_win(tmp_path: Path) -> None:
    dataset = AtomicDataset(
        filepath=str(tmp_path / "table.csv"),
        dataset={"type": "pandas.CSVDataset", "load_args": {"dtype": {"fold": float}, "nrows": 2}},
    )
    dataset.save(pd.DataFrame({"fold": [1, 2, 3]}))
    assert dataset.load()["fold"].tolist() == [1.0, 2.0]


def test_a_gene_called_na_is_not_a_missing_value(tmp_path: Path) -> None:
    dataset = table(filepath=str(tmp_path / "genes.csv"))
    dataset.save(pd.DataFrame({"gene": ["NA", "NAN", "nan"], "pcc": [0.1 + 0.2, None, 1e-17]}))
    loaded = dataset.load()
    assert loaded["gene"].tolist() == ["NA", "NAN", "nan"]
    assert loaded["pcc"][0] == 0.1 + 0.2
    assert pd.isna(loaded["pcc"][1])


def test_the_preview_has_no_nan_that_a_browser_could_not_read(tmp_path: Path) -> None:
    dataset = table(filepath=str(tmp_path / "genes.csv"))
    dataset.save(pd.DataFrame({"pcc": [0.5, None] * 20}))
    preview = dataset.preview()
    assert preview["data"] == [[0.5], [None]] * 5


def red_figure() -> Figure:
    red = Figure(figsize=(2, 1))
    axes = red.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow([[[255, 0, 0]]], aspect="auto")
    return red


def test_load_gives_the_image_that_was_drawn(tmp_path: Path) -> None:
    dataset = AtomicDataset(
        filepath=str(tmp_path / "red.png"),
        dataset={"type": "matplotlib.MatplotlibDataset", "save_args": {"dpi": 50}},
    )
    dataset.save(red_figure())
    pixels = np.asarray(Image.open(io.BytesIO(dataset.load())).convert("RGB"))
    assert pixels.shape == (50, 100, 3)
    assert pixels[25, 50].tolist() == [255, 0, 0]


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (plot(filepath=str(tmp_path / name)) for name in ("a.png", "b.png"))
    first.save(red_figure())
    second.save(red_figure())
    assert first.load() == second.load()


PAGE = "<!doctype html>\n<p>13 µm, ok</p>\n"


def test_a_page_is_stored_as_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    dataset = page(filepath=str(tmp_path / "deep" / "report.html"))
    dataset.save(PAGE)
    assert (tmp_path / "deep" / "report.html").read_bytes() == PAGE.encode("utf-8")
    assert dataset.load() == dataset.preview() == PAGE


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    dataset = record(filepath=str(tmp_path / "scores.json"))
    dataset.save({"z": np.float32(0.5), "pcc": [np.nan, float("inf")], "unit": "µm"})
    assert dataset.load() == {"z": 0.5, "pcc": [None, None], "unit": "µm"}
    text = (tmp_path / "scores.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "z": 0.5')
    assert text.endswith("\n}\n")
    assert "µm" in text
    assert json.loads(dataset.preview()) == dataset.load()


def image(value: int) -> SpatialData:
    pixels = da.full((3, 64, 96), value, dtype=np.uint8, chunks=(3, 32, 32))
    return SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"))})


def failing() -> SpatialData:
    def fail(block: np.ndarray) -> np.ndarray:
        raise OSError("the slide is gone")

    pixels = da.zeros((3, 64, 96), dtype=np.uint8, chunks=(3, 32, 32)).map_blocks(
        fail, meta=np.empty((0, 0, 0), np.uint8)
    )
    return SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"))})


def value_of(data: SpatialData) -> int:
    values = np.unique(data.images["he"].to_numpy())
    assert len(values) == 1
    return int(values[0])


@pytest.fixture
def folder(tmp_path: Path) -> SpatialDataDataset:
    return SpatialDataDataset(filepath=str(tmp_path / "section.zarr"))


def test_a_new_save_replaces_the_old_one_and_leaves_nothing_beside(folder: SpatialDataDataset, tmp_path: Path) -> None:
    for value in (1, 2):
        folder.save(image(value))
    assert value_of(folder.load()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["section.zarr"]


def test_nothing_refers_to_the_temporary_path(folder: SpatialDataDataset, tmp_path: Path) -> None:
    data = image(1)
    folder.save(data)
    assert data.path is None
    assert Path(str(folder.load().path)) == tmp_path / "section.zarr"
    records = list((tmp_path / "section.zarr").rglob("*.json"))
    assert records
    assert not any(".tmp" in path.read_text(encoding="utf-8") for path in records)
    moved = (tmp_path / "section.zarr").rename(tmp_path / "elsewhere.zarr")
    assert value_of(SpatialData.read(moved)) == 1


def test_what_was_loaded_can_be_saved_over_itself(folder: SpatialDataDataset) -> None:
    folder.save(image(3))
    folder.save(folder.load())
    assert value_of(folder.load()) == 3


def test_a_failing_save_keeps_the_previous_folder(folder: SpatialDataDataset, tmp_path: Path) -> None:
    folder.save(image(1))
    with pytest.raises(DatasetError, match="the slide is gone"):
        folder.save(failing())
    assert value_of(folder.load()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["section.zarr"]


KILLED_SPATIALDATA = """
import os, signal, sys
import dask.array as da, numpy as np
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spamcaf.datasets.stored import SpatialDataDataset
def killing(block, block_info=None):
    if block_info[0]["chunk-location"][1:] == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return block
pixels = da.zeros((3, 64, 96), dtype=np.uint8, chunks=(3, 32, 32))
pixels = pixels.map_blocks(killing, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
data = SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"))})
SpatialDataDataset(filepath=sys.argv[1]).save(data)
"""


def test_a_kill_while_writing_spatialdata_keeps_the_previous_folder(folder: SpatialDataDataset, tmp_path: Path) -> None:
    folder.save(image(1))
    command = [sys.executable, "-c", KILLED_SPATIALDATA, str(tmp_path / "section.zarr")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(tmp_path.iterdir())) == 2, "the kill came before anything was written"
    assert value_of(folder.load()) == 1


def test_a_folder_that_is_no_spatialdata_is_refused(folder: SpatialDataDataset, tmp_path: Path) -> None:
    (tmp_path / "section.zarr").mkdir()
    with pytest.raises(DatasetError) as caught:
        folder.load()
    assert InputError.within(caught.value)


def test_an_anndata_shows_shape_and_heads_and_a_map_its_picture(tmp_path: Path) -> None:
    xy = np.array([(x, y) for x in range(5) for y in range(5)], float) * 100
    section = AnnData(
        np.arange(75, dtype=np.float32).reshape(25, 3),
        pd.DataFrame({"in_tissue": 1}, index=[f"S{i}" for i in range(25)]),
        pd.DataFrame({"gene_ids": ["E1", "E2", "E3"]}, index=["A", "B", "C"]),
        obsm={"spatial": xy},
    )
    section.uns["spatial"] = {
        "S": {"images": {}, "scalefactors": {"spot_diameter_fullres": 70.0}, "metadata": {"mpp": 0.5}}
    }
    dataset = AnnDataDataset(filepath=str(tmp_path / "section.h5ad"))
    dataset.save(section)
    rows = dict(dataset.preview()["data"])
    assert rows["shape"] == f"{section.n_obs} spots or sites x {section.n_vars}"
    assert f"obs {section.obs_names[0]}" in rows and f"var {section.var_names[0]}" in rows
    assert "spatial float64" in rows["obsm"]
    shown = AnnDataDataset(filepath=str(tmp_path / "section.h5ad"), map_unit="log1p CP10k")
    assert inspect.signature(shown.preview).return_annotation == "ImagePreview"
    assert base64.b64decode(shown.preview()).startswith(b"\x89PNG")

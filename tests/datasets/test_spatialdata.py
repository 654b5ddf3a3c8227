from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from kedro.io import DatasetError
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

from spamcaf.datasets.spatialdata import SpatialDataDataset
from spamcaf.errors import InputError


def image(value: int) -> SpatialData:
    pixels = da.full((3, 64, 96), value, dtype=np.uint8, chunks=(3, 32, 32))
    return SpatialData(images={"picture": Image2DModel.parse(pixels, dims=("c", "y", "x"))})


def failing() -> SpatialData:
    def fail(block: np.ndarray) -> np.ndarray:
        raise OSError("the slide is gone")

    pixels = da.zeros((3, 64, 96), dtype=np.uint8, chunks=(3, 32, 32)).map_blocks(
        fail, meta=np.empty((0, 0, 0), np.uint8)
    )
    return SpatialData(images={"picture": Image2DModel.parse(pixels, dims=("c", "y", "x"))})


def value_of(data: SpatialData) -> int:
    values = np.unique(data.images["picture"].to_numpy())
    assert len(values) == 1
    return int(values[0])


@pytest.fixture
def dataset(tmp_path: Path) -> SpatialDataDataset:
    return SpatialDataDataset(filepath=str(tmp_path / "section.zarr"))


def test_a_new_save_replaces_the_old_one_and_leaves_nothing_beside(dataset: SpatialDataDataset, tmp_path: Path) -> None:
    for value in (1, 2):
        dataset.save(image(value))
    assert value_of(dataset.load()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["section.zarr"]


def test_nothing_refers_to_the_temporary_path(dataset: SpatialDataDataset, tmp_path: Path) -> None:
    data = image(1)
    dataset.save(data)
    assert data.path is None
    assert Path(str(dataset.load().path)) == tmp_path / "section.zarr"
    records = list((tmp_path / "section.zarr").rglob("*.json"))
    assert records
    assert not any(".tmp" in path.read_text(encoding="utf-8") for path in records)
    moved = (tmp_path / "section.zarr").rename(tmp_path / "elsewhere.zarr")
    assert value_of(SpatialData.read(moved)) == 1


def test_what_was_loaded_can_be_saved_over_itself(dataset: SpatialDataDataset) -> None:
    dataset.save(image(3))
    dataset.save(dataset.load())
    assert value_of(dataset.load()) == 3


def test_a_failing_save_keeps_the_previous_result(dataset: SpatialDataDataset, tmp_path: Path) -> None:
    dataset.save(image(1))
    with pytest.raises(DatasetError, match="the slide is gone"):
        dataset.save(failing())
    assert value_of(dataset.load()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["section.zarr"]


KILLED = """
import os, signal, sys
import dask.array as da, numpy as np
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spamcaf.datasets.spatialdata import SpatialDataDataset
def killing(block, block_info=None):
    if block_info[0]["chunk-location"][1:] == (1, 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return block
pixels = da.zeros((3, 64, 96), dtype=np.uint8, chunks=(3, 32, 32))
pixels = pixels.map_blocks(killing, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
data = SpatialData(images={"picture": Image2DModel.parse(pixels, dims=("c", "y", "x"))})
SpatialDataDataset(filepath=sys.argv[1]).save(data)
"""


def test_a_kill_while_writing_keeps_the_previous_result(dataset: SpatialDataDataset, tmp_path: Path) -> None:
    dataset.save(image(1))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "section.zarr")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(list(tmp_path.iterdir())) == 2, "the kill came before anything was written"
    assert value_of(dataset.load()) == 1


def test_a_folder_that_is_no_spatialdata_is_refused(dataset: SpatialDataDataset, tmp_path: Path) -> None:
    (tmp_path / "section.zarr").mkdir()
    with pytest.raises(DatasetError) as caught:
        dataset.load()
    assert InputError.within(caught.value)

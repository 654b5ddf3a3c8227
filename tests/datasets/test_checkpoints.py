"""A checkpoint is loaded whole and under its own key, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kedro.io import DatasetError

from spamcaf.datasets.model import CheckpointFolder, CheckpointsDataset
from spamcaf.model.training import Checkpoint, fingerprint

TENSORS = {"weights": np.arange(6.0).reshape(2, 3), "step": np.array(3.0, np.float32)}
RECORD = {"log": [{"epoch": 0, "loss": 0.1 + 0.2}], "is_finite": True}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointFolder:
    return CheckpointsDataset(filepath=str(tmp_path / "checkpoints")).load()


@pytest.fixture
def path(store: CheckpointFolder, tmp_path: Path) -> Path:
    store.save("fold_0", "key", Checkpoint(TENSORS, RECORD))
    return tmp_path / "checkpoints" / "fold_0.safetensors"


def test_what_was_saved_comes_back_to_the_last_bit(store: CheckpointFolder) -> None:
    store.save("fold_0", "key", Checkpoint(TENSORS, RECORD))
    found = store.load("fold_0", "key")
    assert found is not None
    assert found.record == RECORD
    assert {name: (t.shape, t.dtype) for name, t in found.tensors.items()} == {
        name: (t.shape, t.dtype) for name, t in TENSORS.items()
    }
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


@pytest.mark.usefixtures("path")
def test_another_key_or_name_gives_nothing(store: CheckpointFolder) -> None:
    assert store.load("fold_0", "other") is None
    assert store.load("fold_1", "key") is None


@pytest.mark.usefixtures("path")
def test_a_checkpoint_of_another_key_is_replaced(store: CheckpointFolder) -> None:
    store.save("fold_0", "other", Checkpoint(TENSORS, {}))
    assert store.load("fold_0", "key") is None
    assert store.load("fold_0", "other") is not None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-8],
        lambda content: content[:10],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"0.30000000000000004", b"0.30000000000000005"),
        lambda content: content.replace(b"checksum", b"chicksum"),
    ],
)
def test_a_damaged_one_is_named_and_not_used(
    store: CheckpointFolder, path: Path, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    content = path.read_bytes()
    assert spoil(content) != content
    path.write_bytes(spoil(content))
    with caplog.at_level(logging.WARNING):
        assert store.load("fold_0", "key") is None
    assert "fold_0.safetensors is damaged" in caplog.text


def test_clearing_removes_everything_and_may_be_repeated(store: CheckpointFolder, path: Path) -> None:
    (path.parent / ".fold_0.abc.tmp.safetensors").write_bytes(b"half")
    store.clear()
    store.clear()
    assert not path.parent.exists()
    assert store.load("fold_0", "key") is None


def test_the_catalog_entry_is_always_there_and_saves_through_the_store_only(tmp_path: Path) -> None:
    entry = CheckpointsDataset(filepath=str(tmp_path / "none"))
    assert entry.exists()
    with pytest.raises(DatasetError, match="through the store"):
        entry.save(entry.load())


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [
        ({"a": np.arange(4.0)}, ("y",)),
        ({"a": np.arange(4.0).astype(np.float32)}, ("x",)),
        ({"a": np.arange(4.0).reshape(2, 2)}, ("x",)),
        ({"b": np.arange(4.0)}, ("x",)),
        ({"a": np.arange(4.0) + np.spacing(1.0)}, ("x",)),
    ],
)
def test_the_fingerprint_sees_every_difference(arrays: dict[str, np.ndarray], facts: tuple[str, ...]) -> None:
    assert fingerprint(arrays, facts) != fingerprint({"a": np.arange(4.0)}, ("x",))
    assert fingerprint({"a": np.arange(4.0)}, ("x",)) == fingerprint({"a": np.arange(8.0)[:4]}, ("x",))

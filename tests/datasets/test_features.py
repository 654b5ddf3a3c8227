"""Blocks are appended, damaged ones are named and dropped, and only a whole set of one key is loaded."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from kedro.io import DatasetError

from spamcaf.datasets.features import FeaturesDataset, StoredBlocksDataset
from spamcaf.errors import InputError
from spamcaf.histology.features import FeatureKey, Features, StoredBlock

N, BLOCK = 7, 3
SECOND = "windows/c.1.0.0"
"""The file of the second block's features."""
KEY = FeatureKey("slide", "b:1", "v", "i", 400, BLOCK)
OTHER = replace(KEY, backbone="b:2")
WINDOWS = np.random.default_rng(0).normal(size=(N, 9, 4)).astype(np.float32)


def folder_of(key: FeatureKey) -> str:
    return f"{key.short()}.zarr"


def blocks(key: FeatureKey = KEY, scale: float = 1.0) -> list[Features]:
    return [
        Features(
            tuple(f"site{i}" for i in range(start, min(start + BLOCK, N))),
            WINDOWS[start : start + BLOCK] * np.float32(scale),
            np.arange(start, min(start + BLOCK, N)),
            key,
            N,
            start,
        )
        for start in range(0, N, BLOCK)
    ]


@pytest.fixture
def store(tmp_path: Path) -> FeaturesDataset:
    return FeaturesDataset(filepath=str(tmp_path / "features"))


@pytest.fixture
def stored(tmp_path: Path) -> StoredBlocksDataset:
    return StoredBlocksDataset(filepath=str(tmp_path / "features"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_blocks_in_any_order_make_the_whole(store: FeaturesDataset, order: tuple[int, ...]) -> None:
    for i in order:
        store.save(blocks()[i])
    whole = store.load()
    assert whole.ids == tuple(f"site{i}" for i in range(N))
    np.testing.assert_array_equal(whole.windows, WINDOWS)
    np.testing.assert_array_equal(whole.n_px_padded, np.arange(N))
    assert whole.key == KEY


def test_an_incomplete_store_is_not_loaded_but_its_blocks_are(
    store: FeaturesDataset, stored: StoredBlocksDataset
) -> None:
    assert stored.load() == []
    for block in blocks()[:2]:
        store.save(block)
    assert not store.exists()
    with pytest.raises(DatasetError) as caught:
        store.load()
    assert InputError.within(caught.value) is not None
    assert stored.load() == [StoredBlock(KEY, 0), StoredBlock(KEY, 3)]


def spoil_content(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [spoil_content, truncate, lambda path: path.write_bytes(b"")])
def test_a_damaged_block_is_named_and_can_be_written_again(
    store: FeaturesDataset,
    stored: StoredBlocksDataset,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    damage: object,
) -> None:
    for block in blocks():
        store.save(block)
    path = tmp_path / "features" / folder_of(KEY) / SECOND
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert [block.start for block in stored.load()] == [0, 6]
    assert str(path) in caplog.text
    assert not store.exists()
    store.save(blocks()[1])
    np.testing.assert_array_equal(store.load().windows, WINDOWS)


def begin_another_key(store: FeaturesDataset) -> None:
    """Store KEY wholly, then all but the last block of OTHER."""
    for block in [*blocks(), *blocks(OTHER, 2.0)[:2]]:
        store.save(block)


def later(tmp_path: Path, key: FeatureKey) -> None:
    """Let a key's blocks be the last ones written, whatever the clock's resolution."""
    for path in (tmp_path / "features" / folder_of(key) / "ids").iterdir():
        os.utime(path, (2e9, 2e9))


def test_a_new_key_replaces_the_old_once_it_is_complete(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path
) -> None:
    begin_another_key(store)
    later(tmp_path, OTHER)
    assert not store.exists()
    with pytest.raises(DatasetError, match=rf"features of {sum(len(b.ids) for b in blocks()[:2])} of {N} sites"):
        store.load()
    assert {block.key for block in stored.load()} == {KEY, OTHER}
    store.save(blocks(OTHER, 2.0)[2])
    assert store.load().key == OTHER
    np.testing.assert_array_equal(store.load().windows, WINDOWS * 2)
    assert {block.key for block in stored.load()} == {OTHER}


@pytest.mark.parametrize("newest", [KEY, OTHER])
def test_of_two_wholes_the_newest_is_loaded(store: FeaturesDataset, tmp_path: Path, newest: FeatureKey) -> None:
    """A kill between the last block and the removal of older keys leaves both."""
    for key in (KEY, OTHER):
        apart = FeaturesDataset(filepath=str(tmp_path / key.short()))
        for block in blocks(key):
            apart.save(block)
        (tmp_path / "features").mkdir(exist_ok=True)
        (tmp_path / key.short() / folder_of(key)).rename(tmp_path / "features" / folder_of(key))
    later(tmp_path, newest)
    assert store.load().key == newest


def test_the_settings_before_get_their_features_back(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path
) -> None:
    for block in blocks():
        store.save(block)
    store.save(blocks(OTHER, 2.0)[0])
    later(tmp_path, OTHER)
    again = FeaturesDataset(filepath=str(tmp_path / "features"))
    again.save(replace(blocks()[0], ids=(), windows=WINDOWS[:0]))  # nothing to compute: KEY is in use
    assert again.load().key == KEY
    assert {block.key for block in stored.load()} == {KEY}


def test_a_damaged_block_does_not_count_as_stored(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path
) -> None:
    begin_another_key(store)
    spoil_content(tmp_path / "features" / folder_of(OTHER) / SECOND)
    again = FeaturesDataset(filepath=str(tmp_path / "features"))
    again.save(blocks(OTHER, 2.0)[2])
    assert KEY in {block.key for block in stored.load()}
    again.save(blocks(OTHER, 2.0)[1])
    assert {block.key for block in stored.load()} == {OTHER}


def test_a_block_moved_to_another_key_is_not_trusted(store: FeaturesDataset, tmp_path: Path) -> None:
    for block in blocks():
        store.save(block)
    (folder,) = (tmp_path / "features").iterdir()
    folder.rename(folder.with_name(folder_of(OTHER)))
    assert not store.exists()


def test_a_save_that_fails_leaves_no_block(
    store: FeaturesDataset, stored: StoredBlocksDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(blocks()[0])

    def full(*_: object) -> None:
        raise OSError("no space left on the device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(DatasetError, match="no space left"):
            store.save(blocks()[1])
    assert [block.start for block in stored.load()] == [0]


def test_the_list_of_blocks_is_read_only(stored: StoredBlocksDataset) -> None:
    with pytest.raises(DatasetError, match="own entry"):
        stored.save(blocks()[0])


def test_shrunk_windows_are_stored_and_verified_too(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path
) -> None:
    whole = WINDOWS.mean(axis=1)
    for block in blocks():
        rows = slice(block.start, block.start + len(block.ids))
        store.save(replace(block, whole=whole[rows]))
    np.testing.assert_array_equal(store.load().whole, whole)
    assert store.load().whole.shape == (N, 4)
    spoil_content(tmp_path / "features" / folder_of(KEY) / "whole/c.0.0")
    assert [block.start for block in stored.load()] == [3, 6]


def test_without_them_there_is_no_array_for_them(store: FeaturesDataset, tmp_path: Path) -> None:
    store.save(blocks()[0])
    names = {path.name for path in (tmp_path / "features" / folder_of(KEY)).iterdir() if path.is_dir()}
    assert names == {"windows", "n_px_padded", "ids"}


@pytest.fixture
def whole(store: FeaturesDataset) -> Features:
    for block in blocks():
        store.save(block)
    return store.load()


@pytest.mark.parametrize(
    "index",
    [
        np.array([6, 0, 3, 3]),
        [5],
        slice(2, 5),
        slice(None, None, -2),
        np.arange(N) % 2 == 0,
        4,
        -1,
        np.empty(0, int),
        (np.array([1, 6]), 4),
        (slice(None), slice(2, 4), 1),
        (3, 4),
    ],
    ids=str,
)
def test_rows_are_read_as_numpy_takes_them(whole: Features, index: object) -> None:
    np.testing.assert_array_equal(whole.windows[index], WINDOWS[index])


def test_only_the_blocks_asked_for_are_read(whole: Features, tmp_path: Path) -> None:
    path = tmp_path / "features" / folder_of(KEY) / SECOND
    path.unlink()
    np.testing.assert_array_equal(whole.windows[[0, 6, 2]], WINDOWS[[0, 6, 2]])
    with pytest.raises(InputError, match=r"c\.1\.0\.0 is damaged \(it is missing\)"):
        whole.windows[[3]]


def test_a_loaded_store_is_as_good_as_an_array(whole: Features) -> None:
    assert (len(whole.windows), whole.windows.shape, whole.windows.ndim) == (N, WINDOWS.shape, 3)
    assert np.asarray(whole.windows).dtype == whole.windows.dtype == np.float32
    np.testing.assert_array_equal(whole.windows, WINDOWS)
    np.testing.assert_array_equal(np.asarray(whole.windows, np.float64), WINDOWS.astype(np.float64))


def test_loading_keeps_no_features_in_memory(whole: Features) -> None:
    held = [value for value in vars(whole.windows).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) < WINDOWS.nbytes / 4


def test_saving_does_not_read_what_was_saved_before(
    store: FeaturesDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    read = zarr.storage.LocalStore.get

    async def logged(self: zarr.storage.LocalStore, key: str, *others: object, **more: object) -> object:
        opened.append(key)
        return await read(self, key, *others, **more)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", logged)
    for block in blocks():
        store.save(block)
    FeaturesDataset(filepath=str(tmp_path / "features")).save(blocks()[0])
    assert opened
    assert [key for key in opened if not key.endswith(("zarr.json", ".zgroup", ".zattrs", ".zmetadata"))] == []


def test_a_block_without_sites_says_which_key_is_in_use(store: FeaturesDataset, tmp_path: Path) -> None:
    """A run that was killed after its last block, and then one with the settings before: what that one found counts."""
    marker = replace(blocks()[0], ids=(), windows=WINDOWS[:0], n_px_padded=np.empty(0, np.int64))
    test_of_two_wholes_the_newest_is_loaded(store, tmp_path, OTHER)
    store.save(marker)
    assert store.load().key == KEY
    assert [path.name for path in (tmp_path / "features").iterdir()] == [folder_of(KEY)]


def test_a_block_without_sites_removes_nothing_for_a_key_that_is_not_whole(store: FeaturesDataset) -> None:
    for block in blocks():
        store.save(block)
    store.save(replace(blocks(OTHER)[0], ids=(), windows=WINDOWS[:0], n_px_padded=np.empty(0, np.int64)))
    assert store.load().key == KEY


def test_no_site_at_all_is_a_whole_too(store: FeaturesDataset) -> None:
    store.save(Features((), WINDOWS[:0], np.empty(0, np.int64), KEY, 0, whole=WINDOWS[:0, 0]))
    empty = store.load()
    assert (empty.ids, empty.windows.shape, empty.whole.shape) == ((), (0, 9, 4), (0, 4))
    assert empty.windows[np.empty(0, int)].shape == (0, 9, 4)


def test_what_is_said_of_a_block_is_verified_too(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path
) -> None:
    for block in blocks():
        store.save(block)
    path = tmp_path / "features" / folder_of(KEY) / "ids/c.1"
    path.write_bytes(path.read_bytes().replace(b"site4", b"site9"))
    assert [block.start for block in stored.load()] == [0, 6]
    assert not store.exists()


def test_blocks_of_another_size_are_of_another_key(store: FeaturesDataset) -> None:
    for block in blocks()[:2]:
        store.save(block)
    store.save(replace(blocks()[2], key=replace(KEY, block=6)))
    assert not store.exists()


def store_of_version_0_1(tmp_path: Path) -> Path:
    """Return a file of a feature store as version 0.1 wrote it."""
    path = tmp_path / "features" / KEY.short() / "block_00000000.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"written by version 0.1")
    return path


def test_a_store_of_version_0_1_names_the_pipeline_to_run(store: FeaturesDataset, tmp_path: Path) -> None:
    store_of_version_0_1(tmp_path)
    assert not store.exists()
    with pytest.raises(DatasetError, match=r"version 0\.1") as caught:
        store.load()
    error = InputError.within(caught.value)
    assert error is not None
    assert "Run the pipeline feature_extraction again" in str(error)


def test_a_store_of_version_0_1_is_computed_again_and_replaced(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = store_of_version_0_1(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert stored.load() == []
    assert "version 0.1: they are computed again" in caplog.text
    for block in blocks():
        assert old.exists()
        store.save(block)
    assert [path.name for path in (tmp_path / "features").iterdir()] == [folder_of(KEY)]
    assert store.load().key == KEY


@pytest.mark.parametrize("name", ["zarr.json", "windows/zarr.json", "n_px_padded/zarr.json", "ids/zarr.json"])
def test_no_changed_byte_of_a_description_is_taken_for_sound(
    store: FeaturesDataset, stored: StoredBlocksDataset, tmp_path: Path, name: str
) -> None:
    """The description after a changed byte is equal, or the store is computed again."""
    for block in blocks():
        store.save(block)
    path = tmp_path / "features" / folder_of(KEY) / name
    content = path.read_bytes()
    for i in range(0, len(content), 3):
        path.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        if len(stored.load()) == len(blocks()):
            whole = store.load()
            assert (whole.key, whole.ids) == (KEY, tuple(f"site{i}" for i in range(N)))
            np.testing.assert_array_equal(whole.windows, WINDOWS)
            np.testing.assert_array_equal(whole.n_px_padded, np.arange(N))
    path.write_bytes(content[:-10])
    assert stored.load() == []
    for block in blocks():
        store.save(block)
    np.testing.assert_array_equal(store.load().windows, WINDOWS)


def test_what_a_kill_leaves_beside_a_chunk_is_removed(store: FeaturesDataset, tmp_path: Path) -> None:
    for block in blocks()[:2]:
        store.save(block)
    folder = tmp_path / "features" / folder_of(KEY)
    left_over = [folder / "windows/c.1.0.0123.partial", folder / "ids/c.0123456789abcdef.partial"]
    for path in left_over:
        path.write_bytes(b"half")
    assert not store.exists()
    store.save(blocks()[2])
    assert not any(path.exists() for path in left_over)
    assert store.load().key == KEY


def test_a_block_of_zeros_is_stored_too(store: FeaturesDataset) -> None:
    """Zarr leaves out a chunk that equals its fill value by default."""
    for block in blocks():
        store.save(replace(block, windows=block.windows * 0, n_px_padded=block.n_px_padded * 0))
    assert not np.asarray(store.load().windows).any()

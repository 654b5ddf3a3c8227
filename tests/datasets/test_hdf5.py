"""An h5ad that reads other files of the machine is refused, before its content is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from kedro.io import DatasetError

from spamcaf.datasets.anndata import AnnDataDataset


def external_link(file: h5py.File, secret: Path) -> None:
    file["stolen"] = h5py.ExternalLink(str(secret), "/x")


def soft_link(file: h5py.File, secret: Path) -> None:
    file["stolen"] = h5py.SoftLink("/X")


def external_storage(file: h5py.File, secret: Path) -> None:
    file["uns"].create_dataset("stolen", shape=(4,), dtype="u1", external=[(str(secret), 0, 4)])


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    reader = h5py.VirtualLayout(shape=(4,), dtype="u1")
    reader[:] = h5py.VirtualSource(str(secret), "x", shape=(4,))
    file["uns"].create_virtual_dataset("stolen", reader)


@pytest.fixture
def stored(tmp_path: Path) -> AnnDataDataset:
    dataset = AnnDataDataset(filepath=str(tmp_path / "section.h5ad"))
    dataset.save(anndata.AnnData(np.ones((3, 2), np.float32), uns={"a": 1}))
    return dataset


@pytest.mark.parametrize("attack", [external_link, soft_link, external_storage, virtual_dataset])
def test_foreign_content_is_refused(
    stored: AnnDataDataset, tmp_path: Path, attack: Callable[[h5py.File, Path], None]
) -> None:
    (tmp_path / "secret").write_bytes(b"key!")
    with h5py.File(tmp_path / "section.h5ad", "a") as file:
        attack(file, tmp_path / "secret")
    with pytest.raises(DatasetError, match="another file"):
        stored.load()


def test_a_plain_file_is_read(stored: AnnDataDataset) -> None:
    assert stored.load().shape == (3, 2)

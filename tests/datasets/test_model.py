"""Models and checkpoints come back to the last bit, whole and under their own key, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kedro.io import DatasetError

from spamcaf.compute import computing
from spamcaf.datasets.model import CheckpointFolder, CheckpointsDataset, ModelDataset, write_tensors
from spamcaf.errors import InputError
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.training import Checkpoint, input_fingerprint
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, ReleasedSettings
from spamcaf.peers.models import TrainedModel, predict
from spamcaf.peers.released import fit_released
from spamcaf.sections.sites import Measured, Sites

CPU = ComputeSettings(device="cpu", threads=1)


@pytest.fixture(scope="module")
def measured() -> Measured:
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 100.0
    windows = rng.normal(size=(30, 9, 16)).astype(np.float32)
    expression = np.log1p(rng.poisson(3, size=(30, 12))).astype(np.float32)
    return Measured(Sites(xy, windows[:, 4], windows), expression, np.full(30, 5000.0))


@pytest.fixture(scope="module")
def trained(measured: Measured) -> TrainedModel:
    fit = FitSettings(epochs=1)
    model = fit_spamcaf(
        TrainingSection(measured, np.arange(30) % 3), [], 100.0, fit, NetworkSettings(image_components=4), CPU, 0
    ).model
    names = tuple(f"g{i}" for i in range(12))
    return TrainedModel(model, names, names, {"spots": "abc", "program_genes": "d", "backbone": "b", "view": "v"})


def test_round_trip(trained: TrainedModel, measured: Measured, tmp_path: Path) -> None:
    dataset = ModelDataset(filepath=str(tmp_path / "model.safetensors"))
    dataset.save(trained)
    first = (tmp_path / "model.safetensors").read_bytes()
    again = dataset.load()
    assert (again.genes, again.record) == (trained.genes, trained.record)
    for context in (measured, None):
        before, after = (predict(m.model, context, measured.sites, CPU) for m in (trained, again))
        np.testing.assert_array_equal(before.mean, after.mean)
        np.testing.assert_array_equal(before.sd, after.sd)
    dataset.save(again)
    assert (tmp_path / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"x" + b[1:], lambda b: b""])
def test_a_damaged_model_is_refused(trained: TrainedModel, tmp_path: Path, damage) -> None:
    path = tmp_path / "model.safetensors"
    dataset = ModelDataset(filepath=str(path))
    dataset.save(trained)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match="Next step"):
        dataset.load()


def test_a_model_of_other_spots_or_genes_is_refused(trained: TrainedModel) -> None:
    trained.require_spots("abc")
    trained.require_genes([f"g{i}" for i in range(12)], "d")
    with pytest.raises(InputError, match="other spots"):
        trained.require_spots("abd")
    for genes, program_genes in (([f"g{i}" for i in reversed(range(12))], "d"), ([f"g{i}" for i in range(12)], "e")):
        with pytest.raises(InputError, match="not of the model's panel"):
            trained.require_genes(genes, program_genes)


def test_the_released_network_is_stored_the_same_way(measured: Measured, tmp_path: Path) -> None:
    sites = replace(measured.sites, whole=measured.sites.neighbours.mean(axis=1))
    target_section = TrainingSection(replace(measured, sites=sites), np.arange(30) % 3)
    model = fit_released(target_section, ReleasedSettings(epochs=1), CPU, 0).model
    dataset = ModelDataset(filepath=str(tmp_path / "model.safetensors"))
    dataset.save(TrainedModel(model, ("a",), ("b",), {"spots": "abc"}))
    again = dataset.load()
    assert (again.genes, again.gene_ids, again.record) == (("a",), ("b",), {"spots": "abc"})
    before, after = (predict(m, None, sites, CPU).mean for m in (model, again.model))
    np.testing.assert_array_equal(before, after)


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
    ("arrays", "seed"),
    [
        ({"a": np.arange(4.0)}, 1),
        ({"a": np.arange(4.0).astype(np.float32)}, 0),
        ({"a": np.arange(4.0).reshape(2, 2)}, 0),
        ({"b": np.arange(4.0)}, 0),
        ({"a": np.arange(4.0) + np.spacing(1.0)}, 0),
    ],
)
def test_the_fingerprint_sees_every_difference(arrays: dict[str, np.ndarray], seed: int) -> None:
    with computing(CPU) as machine:
        one, same, other = (
            input_fingerprint(values, (), machine, number)
            for values, number in (({"a": np.arange(4.0)}, 0), ({"a": np.arange(8.0)[:4]}, 0), (arrays, seed))
        )
    assert one == same != other


@pytest.mark.parametrize("kind", ["spamcaf_model", "released_model"])
def test_a_model_of_an_older_format_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    texts = {"genes": "[]", "gene_ids": "[]", "record": "{}", "sizes": "{}", "settings": "{}"}
    write_tensors(tmp_path / "model.safetensors", {"a": np.arange(3.0)}, {kind: "0", **texts})
    with pytest.raises(DatasetError) as caught:
        ModelDataset(filepath=str(tmp_path / "model.safetensors")).load()
    message = str(InputError.within(caught.value))
    assert "a model of format '0'" in message
    assert message.count("Next step: ") == 1
    assert "training" in message.partition("Next step: ")[2]

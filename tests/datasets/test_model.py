"""Models and checkpoints come back to the last bit, whole and under their own key, or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kedro.io import DatasetError

from spamcaf.compute import computing
from spamcaf.datasets.model import CheckpointFolder, CheckpointsDataset, ModelDataset, read_tensors, write_tensors
from spamcaf.errors import InputError
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.training import Checkpoint, input_fingerprint
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, ReleasedSettings
from spamcaf.peers import released
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


def test_the_released_network_is_stored_the_same_way(trained: TrainedModel, measured: Measured, tmp_path: Path) -> None:
    sites = replace(measured.sites, whole=measured.sites.neighbours.mean(axis=1))
    target_section = TrainingSection(replace(measured, sites=sites), np.arange(30) % 3)
    model = fit_released(target_section, ReleasedSettings(epochs=1), CPU, 0).model
    dataset = ModelDataset(filepath=str(tmp_path / "model.safetensors"))
    dataset.save(replace(trained, model=model))
    again = dataset.load()
    assert (again.genes, again.gene_ids, again.record) == (trained.genes, trained.gene_ids, trained.record)
    before, after = (predict(m, None, sites, CPU).mean for m in (model, again.model))
    np.testing.assert_array_equal(before, after)


def _of_json(change: Callable[[Any], Any]) -> Callable[[str], str]:
    return lambda text: json.dumps(change(json.loads(text)))


TEXTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "nested without end": ("values", lambda _: "[" * 100_000),
    "record nested without end": ("record", lambda _: "[" * 100_000),
    "a size without a name": ("sizes", _of_json(list)),
    "a size that is missing": ("sizes", _of_json(lambda sizes: {k: v for k, v in sizes.items() if k != "spot"})),
    "a size of no array": ("sizes", _of_json(lambda sizes: sizes | {"fold": 10**9})),
    "networks of too many blocks": ("values", _of_json(lambda v: v | {"network": v["network"] | {"depth": 10**6}})),
    "networks of another width": ("values", _of_json(lambda v: v | {"network": v["network"] | {"width": 2**40}})),
    "too many networks": ("values", _of_json(lambda values: values | {"networks": 10**30})),
    "settings that are none": ("values", _of_json(lambda values: values | {"fit": 1.5})),
    "a distance of 0": ("values", _of_json(lambda values: values | {"pitch_um": 0.0})),
    "a depth that overflows": ("values", _of_json(lambda v: v | {"new_section.hyper.reference_depth": 1e30})),
    "a distance that is a text": ("values", _of_json(lambda values: values | {"pitch_um": "far"})),
    "fewer genes than it predicts": ("values", _of_json(lambda values: values | {"programs.n_predicted": 11})),
    "a gene too few": ("genes", _of_json(lambda genes: genes[:-1])),
    "a gene twice": ("genes", _of_json(lambda genes: [genes[1], *genes[1:]])),
    "a number as a gene": ("gene_ids", _of_json(lambda genes: [3, *genes[1:]])),
    "a record without the backbone": ("record", _of_json(lambda record: record | {"backbone": None})),
    "a record that h5ad does not hold": ("record", _of_json(lambda record: record | {"seed": 2**70})),
}


def test_a_changed_byte_of_a_model_is_noticed(trained: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    dataset = ModelDataset(filepath=str(path))
    dataset.save(trained)
    content = path.read_bytes()
    begin = content.index(b"program_genes")
    for at in (len(content) // 2, len(content) - 5, begin + 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DatasetError, match="its checksum does not match: it is damaged"):
            dataset.load()
    path.write_bytes(content.replace(b"checksum", b"chicksum"))
    with pytest.raises(DatasetError, match="it has no checksum: an older version wrote it, or it is damaged"):
        dataset.load()
    path.write_bytes(content)
    assert dataset.load().genes == trained.genes


@pytest.mark.parametrize(("name", "change"), TEXTS.values(), ids=TEXTS)
def test_a_model_whose_texts_were_changed_is_refused(trained: TrainedModel, tmp_path: Path, name: str, change) -> None:
    path = tmp_path / "model.safetensors"
    dataset = ModelDataset(filepath=str(path))
    dataset.save(trained)
    arrays, texts = read_tensors(path)
    write_tensors(path, arrays, texts | {name: change(texts[name])})
    with pytest.raises(DatasetError, match=r"model\.safetensors cannot be read .*Next step"):
        dataset.load()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("own_genes", lambda array: array + 12),
        ("new_section.hyper.covariance_of", lambda array: array - 1),
        ("own_genes", lambda array: array.astype(np.float32)),
        ("reference_spots.depth", lambda array: array.astype(np.int32)),
        ("networks.0.section.position.mlp.0.bias", lambda array: array > 0),
        ("within_section.hyper.weights", lambda array: -array),
        ("new_section.hyper.noise", lambda array: array * 0),
        ("reference_spots.scores", lambda array: array + 1e300),
    ],
)
def test_a_model_with_indices_of_nothing_or_numbers_that_cannot_be_is_refused(
    trained: TrainedModel, tmp_path: Path, name: str, change
) -> None:
    path = tmp_path / "model.safetensors"
    dataset = ModelDataset(filepath=str(path))
    dataset.save(trained)
    arrays, texts = read_tensors(path)
    write_tensors(path, arrays | {name: change(arrays[name])}, texts)
    with pytest.raises(DatasetError, match="Next step"):
        dataset.load()


def test_the_released_network_without_a_size_is_refused(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HIDDEN", "TOKEN", "ATTENTION"):
        monkeypatch.setattr(released, name, 4)
    shape = released.ReleasedShape(16, 12)
    model = released.ReleasedModel.of_network(released.ReleasedNetwork(shape), shape, ReleasedSettings())
    path = tmp_path / "model.safetensors"
    ModelDataset(filepath=str(path)).save(replace(trained, model=model))
    arrays, texts = read_tensors(path)
    write_tensors(path, arrays, texts | {"sizes": '{"n_genes": 12}'})
    with pytest.raises(DatasetError, match="cannot be read .*n_features.*Next step"):
        ModelDataset(filepath=str(path)).load()


def test_a_pipe_in_the_place_of_a_model_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(DatasetError, match=r"model\.safetensors, which is a pipe"):
        ModelDataset(filepath=str(tmp_path / "model.safetensors")).load()


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


def _with_nested_record(content: bytes) -> bytes:
    n = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + n])
    header["__metadata__"]["spamcaf"] = "[" * 100_000
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + n :]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-8],
        lambda content: content[:10],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content.replace(b"0.30000000000000004", b"0.30000000000000005"),
        lambda content: content.replace(b"checksum", b"chicksum"),
        _with_nested_record,
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

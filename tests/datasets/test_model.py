"""A stored model predicts as it did before, its file is the same bytes again, and a damaged one is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kedro.io import DatasetError

from spamcaf.datasets.model import ModelDataset
from spamcaf.errors import InputError
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.peers.models import predict
from spamcaf.peers.released import fit_released
from spamcaf.peers.models import TrainedModel
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, ReleasedSettings
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
    return TrainedModel(model, names, names, {"spots": "abc", "backbone": "b", "view": "v"})


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
    trained.require_genes([f"g{i}" for i in range(12)])
    with pytest.raises(InputError, match="other spots"):
        trained.require_spots("abd")
    with pytest.raises(InputError, match="not the model's panel"):
        trained.require_genes([f"g{i}" for i in reversed(range(12))])


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

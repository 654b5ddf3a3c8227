"""What a GPU computes agrees with the CPU; on a machine with CUDA: `pytest tests/gpu`."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from spamcaf.datasets.model import CheckpointFolder
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.histology.embedding import Embedder
from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings
from spamcaf.peers.models import predict
from spamcaf.sections.sites import Measured, Sites

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CPU, CUDA = ComputeSettings(device="cpu", precision="float32"), ComputeSettings(device="cuda")


def backbone() -> Backbone:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False, num_classes=0, img_size=224).eval()
    return Backbone(network, (0.5,) * 3, (0.5,) * 3, BackboneIdentity("test_vit", "random", "0", "c", 64, "none"))


@pytest.mark.parametrize(("dtype", "lowest"), [(torch.float32, 0.99999), (torch.bfloat16, 0.999)])
def test_features_point_the_same_way(dtype: torch.dtype, lowest: float) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (27, 224, 224, 3), np.uint8)
    on_cpu = Embedder(backbone(), torch.device("cpu"), torch.float32, 18).embed(tiles).numpy()
    on_gpu = Embedder(backbone(), torch.device("cuda"), dtype, 64).embed(tiles).cpu().numpy()
    lengths = np.linalg.norm(on_cpu, axis=-1) * np.linalg.norm(on_gpu, axis=-1)
    assert ((on_cpu * on_gpu).sum(axis=-1) / lengths).min() > lowest
    if dtype == torch.float32:
        np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def section() -> Measured:
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(12), np.arange(10)), axis=-1).reshape(-1, 2) * 100.0
    windows = rng.normal(size=(120, 9, 32)).astype(np.float32)
    rate = np.exp(1 + np.sin(xy[:, :1] / 300) * rng.uniform(0, 1, size=(1, 40)) + 0.3 * windows[:, 4, :1])
    expression = np.log1p(rng.poisson(rate)).astype(np.float32)
    return Measured(Sites(xy, windows[:, 4], windows), expression, np.full(120, 5000.0))


def test_a_model_fitted_on_the_gpu_predicts_like_one_of_the_cpu() -> None:
    measured, means = section(), []
    for compute in (CPU, CUDA):
        fit, network = FitSettings(epochs=10), NetworkSettings(image_components=8)
        model = fit_spamcaf(TrainingSection(measured, np.arange(120) % 3), [], 100.0, fit, network, compute, 0).model
        means.append(predict(model, measured, measured.sites, compute).mean)
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.99


def test_a_fit_on_the_gpu_goes_on_from_its_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spamcaf")
    target_section = TrainingSection(section(), np.arange(120) % 3)
    fit, network, store = FitSettings(epochs=4), NetworkSettings(image_components=8), CheckpointFolder(tmp_path)
    found = [fit_spamcaf(target_section, [], 100.0, fit, network, CUDA, 0, store).model for _ in range(2)]
    assert sum("trained before" in line for line in caplog.messages) == 3
    for one, other in zip(found[0].networks, found[1].networks, strict=True):
        for name, tensor in one.items():
            np.testing.assert_array_equal(other[name], tensor, err_msg=name)

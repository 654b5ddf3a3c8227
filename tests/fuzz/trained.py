"""Weights of a backbone and stored models: small valid files, and how a run takes them to the end."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ARCHITECTURE: dict[str, Any] = {"img_size": 224, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
WIDTH = 16
PITCH_UM, N_FEATURES, N_GENES, SIDE = 100.0, 6, 12, 5
GENES = tuple(f"Gene{i}" for i in range(N_GENES))
IDS = tuple(f"ENSG{i:011d}" for i in range(N_GENES))
BACKBONE = {"backbone": "none:none:none", "view": "{}"}
SMALL = {"HIDDEN": 8, "TOKEN": 8, "ATTENTION": 4}
"""Widths of the replica of the released network, whose own would take 40 MB."""


def write_weights(folder: Path) -> None:
    """Weights of a vision transformer in both formats, each with timm's description beside."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = timm.create_model("test_vit", pretrained=False, num_classes=0, **ARCHITECTURE).state_dict()
    normalisation = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "license": "mit"}
    arguments = {"model_args": ARCHITECTURE, "pretrained_cfg": normalisation}
    for name in ("safetensors", "torch", "torch before 1.6"):
        (folder / name).mkdir()
        described = {"architecture": "test_vit", "num_features": WIDTH, **arguments}
        (folder / name / "config.json").write_text(json.dumps(described))
    save_file(tensors, folder / "safetensors/model.safetensors", metadata={"format": "pt"})
    torch.save(tensors, folder / "torch/pytorch_model.bin")
    old = folder / "torch before 1.6/pytorch_model.bin"
    torch.save(tensors, old, _use_new_zipfile_serialization=False)


def read_weights(folder: Path) -> None:
    """Load a backbone as a run does, by its folder and by an entry of every naming, and give it a tile."""
    import torch

    from spamcaf.errors import InputError

    def load(name: str, **entry: Any) -> None:
        from spamcaf.datasets.inputs import BackboneDataset

        backbone = _loaded(BackboneDataset(name=name, backbones={"it": entry} if entry else {}, source=str(place)))
        with torch.inference_mode():
            assert backbone.network(torch.zeros(1, 3, 224, 224)).shape == (1, backbone.width)

    place = next(iter(folder.iterdir()))
    entry = {"source": "", "architecture": "test_vit", "width": WIDTH, "init": ARCHITECTURE}
    try:
        for naming in ("in_order", "dinov2", "timm_pretrained"):
            with suppress(InputError):
                load("it", **entry, naming=naming)
        load("it", **entry)
        load(str(place))
    finally:
        if folder.with_name("canary").exists():  # one of the changes writes it where it is unpickled
            raise AssertionError("code of a file of weights was run")


def _loaded(dataset: Any) -> Any:
    """Load an entry of the catalog; raise the InputError that Kedro wraps, which is what a run shows."""
    from kedro.io import DatasetError

    from spamcaf.errors import InputError

    try:
        return dataset.load()
    except DatasetError as error:
        raise InputError.within(error) or error.__cause__ or error from error


@cache
def _measured() -> Any:
    """Return a small section with its features."""
    from spamcaf.sections.sites import Measured, Sites

    rng = np.random.default_rng(0)
    xy_um = (np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) + 0.5) * PITCH_UM
    windows = rng.normal(size=(len(xy_um), 9, N_FEATURES)).astype(np.float32)
    expression = np.log1p(rng.poisson(3, size=(len(xy_um), N_GENES))).astype(np.float32)
    whole = windows.mean(axis=1)
    return Measured(Sites(xy_um, windows[:, 4], windows, whole), expression, np.full(len(xy_um), 5000.0))


def _compute() -> Any:
    from spamcaf.parameters import ComputeSettings

    return ComputeSettings(device="cpu", threads=1)


def write_models(folder: Path) -> None:
    """A fitted model, with and without networks, and a replica of the released one, as `kedro run` stores them."""
    from spamcaf.model.data import TrainingSection
    from spamcaf.model.fit import fit_spamcaf
    from spamcaf.parameters import FitSettings, NetworkSettings, ReleasedSettings
    from spamcaf.peers import released

    section = TrainingSection(_measured(), np.arange(SIDE**2) % 2)
    size = NetworkSettings(width=8, heads=1, n_summary=1, image_components=3, n_context=2)
    for name, use_network in (("spamcaf", True), ("process", False)):
        fit = FitSettings(epochs=1, n_programs=2, n_gene_processes=2, use_network=use_network)
        model = fit_spamcaf(section, [], PITCH_UM, fit, size, _compute(), 0).model
        _store(folder / f"{name}.safetensors", model)
    with mock.patch.multiple(released, **SMALL):
        model = released.fit_released(section, ReleasedSettings(epochs=1), _compute(), 0).model
        _store(folder / "released.safetensors", model)


def _store(path: Path, model: Any) -> None:
    from spamcaf.datasets.model import ModelDataset
    from spamcaf.peers.models import TrainedModel
    from spamcaf.provenance import provenance_record

    record = provenance_record(model="spamcaf", section="A1", spots="abc", program_genes="d", seed=0, **BACKBONE)
    ModelDataset(filepath=str(path)).save(TrainedModel(model, GENES, IDS, record))


@cache
def _unmeasured() -> tuple[Any, ...]:
    """Return section, sites, features and tissue of an image without counts."""
    from spamcaf.histology.features import FeatureKey, Features, sites_hash
    from spamcaf.histology.tissue import Tissue
    from spamcaf.sections.sites import SITE_ID, X_PX, Y_PX, as_section, lay_sites

    laid = lay_sites((SIDE * 100, SIDE * 100), 1.0, PITCH_UM)
    ids, xy_px = laid[SITE_ID].tolist(), laid[[X_PX, Y_PX]].to_numpy(np.float64)
    key = FeatureKey("slide", BACKBONE["backbone"], BACKBONE["view"], sites_hash(ids, xy_px), 336)
    windows, whole = _measured().sites.neighbours, _measured().sites.whole
    features = Features(tuple(ids), windows, np.zeros(len(ids), np.int64), key, len(ids), whole=whole)
    tissue = Tissue(np.ones((50, 50), bool), np.zeros((50, 50, 3), np.uint8), 10.0)
    return as_section(laid, "A2", 1.0, PITCH_UM), laid, features, tissue


def read_model(folder: Path) -> None:
    """Apply the model of another section to an image, store the prediction, and use it among measured spots."""
    from spamcaf.datasets import model
    from spamcaf.datasets.model import AppliedModelDataset
    from spamcaf.histology.backbone import blind_backbone
    from spamcaf.parameters import InferenceSettings
    from spamcaf.peers import released
    from spamcaf.peers.models import predict
    from spamcaf.pipelines.transfer.nodes import predict_unmeasured

    logging.getLogger("anndata").setLevel(logging.ERROR)
    section, laid, features, tissue = _unmeasured()
    path = next(iter(folder.iterdir()), folder / "gone.safetensors")
    # whoever changes a file on purpose corrects its checksum: what lies behind has to hold too
    unchecked = mock.patch.object(model, "checksum", return_value=mock.ANY)
    with mock.patch.multiple(released, **SMALL), unchecked:
        stored = _loaded(AppliedModelDataset(filepath=str(path)))
        where = (section, laid, features, tissue, _compute(), InferenceSettings(), 0, blind_backbone)
        predict_unmeasured(stored, *where).write_h5ad(folder.with_name("prediction.h5ad"))
        if stored.record["program_genes"] == "d" and stored.genes == GENES:  # what `require_genes` asks
            draws = InferenceSettings(n_draws=0 if path.name.startswith("released") else 1)
            predict(stored.model, _measured(), _measured().sites, _compute(), draws)

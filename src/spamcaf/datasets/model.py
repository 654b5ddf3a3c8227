"""The trained model as one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.base import StoredDataset

if TYPE_CHECKING:
    from spamcaf.learning.trained import TrainedModel

RECORD, GENES, GENE_IDS = "record", "genes", "gene_ids"


class ModelDataset(StoredDataset["TrainedModel", "TrainedModel"]):
    """Load and save a trained model: weights, gene panel and the record of what it was trained on."""

    kind = "a model that this version wrote"

    def _write(self, data: TrainedModel, path: Path) -> None:
        from safetensors.numpy import save_file

        texts = {
            **data.model.metadata(),
            RECORD: json.dumps(data.record),
            GENES: json.dumps(data.genes),
            GENE_IDS: json.dumps(data.gene_ids),
        }
        tensors = {name: np.ascontiguousarray(value) for name, value in data.model.to_tensors().items()}
        save_file(tensors, path, metadata=texts)

    def _read(self, path: Path) -> TrainedModel:
        from safetensors import SafetensorError, safe_open

        from spamcaf.learning.model import SpamcafModel
        from spamcaf.learning.trained import TrainedModel

        try:
            with safe_open(path, "numpy") as file:
                texts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        genes, gene_ids = tuple(json.loads(texts[GENES])), tuple(json.loads(texts[GENE_IDS]))
        return TrainedModel(SpamcafModel.from_tensors(tensors, texts), genes, gene_ids, json.loads(texts[RECORD]))

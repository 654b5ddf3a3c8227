"""The trained model as one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from spamcaf.datasets.base import StoredDataset
from spamcaf.datasets.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from spamcaf.model.trained import TrainedModel

RECORD, GENES, GENE_IDS = "record", "genes", "gene_ids"


class ModelDataset(StoredDataset["TrainedModel", "TrainedModel"]):
    """Load and save a trained model: weights, gene panel and the record of what it was trained on."""

    kind = "a model that this version wrote"

    def _write(self, data: TrainedModel, path: Path) -> None:
        texts = {
            **data.model.metadata(),
            RECORD: json.dumps(data.record),
            GENES: json.dumps(data.genes),
            GENE_IDS: json.dumps(data.gene_ids),
        }
        write_tensors(path, data.model.to_tensors(), texts)

    def _read(self, path: Path) -> TrainedModel:
        from spamcaf.model.trained import TrainedModel, read_model

        tensors, texts = read_tensors(path)
        genes, gene_ids = tuple(json.loads(texts[GENES])), tuple(json.loads(texts[GENE_IDS]))
        return TrainedModel(read_model(tensors, texts), genes, gene_ids, json.loads(texts[RECORD]))

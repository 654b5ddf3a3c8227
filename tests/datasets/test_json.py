from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from spamcaf.datasets.stored import AtomicJSONDataset


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    dataset = AtomicJSONDataset(filepath=str(tmp_path / "scores.json"))
    dataset.save({"z": np.float32(0.5), "pcc": [np.nan, float("inf")], "unit": "µm"})
    assert dataset.load() == {"z": 0.5, "pcc": [None, None], "unit": "µm"}
    text = (tmp_path / "scores.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "z": 0.5')
    assert "µm" in text
    assert json.loads(dataset.preview()) == dataset.load()

from __future__ import annotations

from pathlib import Path

import pandas as pd

from spamcaf.datasets.csv import CSVDataset


def test_a_gene_called_na_is_not_a_missing_value(tmp_path: Path) -> None:
    dataset = CSVDataset(filepath=str(tmp_path / "genes.csv"))
    dataset.save(pd.DataFrame({"gene": ["NA", "NAN", "nan"], "pcc": [0.1 + 0.2, None, 1e-17]}))
    table = dataset.load()
    assert table["gene"].tolist() == ["NA", "NAN", "nan"]
    assert table["pcc"][0] == 0.1 + 0.2
    assert pd.isna(table["pcc"][1])


def test_the_preview_has_no_nan_that_a_browser_could_not_read(tmp_path: Path) -> None:
    dataset = CSVDataset(filepath=str(tmp_path / "genes.csv"))
    dataset.save(pd.DataFrame({"pcc": [0.5, None] * 20}))
    preview = dataset.preview()
    assert preview["data"] == [[0.5], [None]] * 5

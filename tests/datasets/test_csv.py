"""Tables come back as they were saved: ids to the letter, numbers to the last digit."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spamcaf.datasets.stored import CSVDataset

IDS = ["1", "0001", "007", "1e3", "NA", "nan", "None", "inf", "TRUE", "1.0", "-1", " A", "B ", 'a"b', "a,b", "\u00e9"]
COLUMNS = ["barcode", "gene", "gene_ids", "site_id", "parent_barcode", "library_id", "label"]


@pytest.mark.parametrize("n", [1, 3, len(IDS)])
@pytest.mark.parametrize("column", COLUMNS)
def test_ids_are_text_as_they_were_written(tmp_path: Path, column: str, n: int) -> None:
    dataset = CSVDataset(filepath=str(tmp_path / "table.csv"))
    dataset.save(pd.DataFrame({column: IDS[:n], "fold": range(n)}))
    table = dataset.load()
    assert table[column].tolist() == IDS[:n]
    assert all(type(name) is str for name in table[column])
    assert table["fold"].dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(st.lists(st.from_regex(r"[-+.0-9eEnaNAifTRUFLSxX_]{1,6}", fullmatch=True), min_size=1, max_size=5))
def test_any_id_comes_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    dataset = CSVDataset(filepath=str(tmp_path_factory.mktemp("csv") / "table.csv"))
    dataset.save(pd.DataFrame({"barcode": names}))
    assert dataset.load()["barcode"].tolist() == names


def test_numbers_come_back_to_the_last_digit_without_a_warning(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(0, 1, 1000) * 10.0 ** np.random.default_rng(1).integers(-30, 30, 1000)
    dataset = CSVDataset(filepath=str(tmp_path / "table.csv"))
    dataset.save(pd.DataFrame({"pcc": numbers}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(dataset.load()["pcc"], numbers)


def test_arguments_of_the_catalog_win(tmp_path: Path) -> None:
    dataset = CSVDataset(filepath=str(tmp_path / "table.csv"), load_args={"dtype": {"fold": float}, "nrows": 2})
    dataset.save(pd.DataFrame({"fold": [1, 2, 3]}))
    assert dataset.load()["fold"].tolist() == [1.0, 2.0]


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

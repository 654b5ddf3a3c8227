"""Labels are joined by barcode, whatever the table looks like; none at all is an error."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.readers.labels import add_labels

BARCODES = ["AAAC-1", "AAAG-1", "AAAT-1", "AACC-1"]
EXPECTED = ["L1", "WM", None, "Layer 3, upper"]


def section() -> AnnData:
    return AnnData(csr_matrix(np.ones((4, 2), np.float32)), obs=pd.DataFrame(index=BARCODES))


TABLES: dict[str, str] = {
    "as HumanPilot has it": "AACC-1\t151673\tLayer 3, upper\nAAAC-1\t151673\tL1\nAAAG-1\t151673\tWM\n",
    "other sections beside it": "AAAC-1\t151507\tL6\nAAAC-1\t151673\tL1\nAAAT-1\t151508\tL2\nAAAG-1\t151673\tWM\n"
    "AACC-1\t151673\tLayer 3, upper\n",
    "two columns": "AAAC-1\tL1\nAAAG-1\tWM\nAACC-1\tLayer 3, upper\n",
    "header": "barcode\tsection\tlabel\nAAAC-1\t151673\tL1\nAAAG-1\t151673\tWM\nAACC-1\t151673\tLayer 3, upper\n",
    "header in another order": "Label\tn\tBarcode\nL1\t1\tAAAC-1\nWM\t2\tAAAG-1\nLayer 3, upper\t3\tAACC-1\n",
    "commas and quotes": 'barcode,label\nAAAC-1,L1\nAAAG-1,WM\nAACC-1,"Layer 3, upper"\n',
    "spots of no section": "AAAC-1\tL1\nAAAG-1\tWM\nAACC-1\tLayer 3, upper\nTTTT-1\tL9\n",
    "empty and NA": "AAAC-1\tL1\nAAAG-1\tWM\nAAAT-1\tNA\nTTTT-1\t\nAACC-1\tLayer 3, upper\n",
    "Windows": "AAAC-1\tL1\r\nAAAG-1\tWM\r\nAACC-1\tLayer 3, upper\r\n",
    "byte order mark": "\ufeffAAAC-1\tL1\nAAAG-1\tWM\nAACC-1\tLayer 3, upper\n",
}


def add(path: Path) -> pd.Series:
    labelled = section()
    add_labels(labelled, path, "151673")
    return labelled.obs["label"]


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_every_table_gives_the_same_labels(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.tsv"
    path.write_bytes(text.encode())
    labels = add(path)
    assert labels.astype(object).where(labels.notna(), None).tolist() == EXPECTED
    assert sorted(labels.cat.categories) == ["L1", "Layer 3, upper", "WM"]


@pytest.mark.parametrize("barcodes", [["1", "2", "3", "10"], ["0001", "1", "NA", "1e3"]])
def test_barcodes_are_text(tmp_path: Path, barcodes: list[str]) -> None:
    labelled = AnnData(csr_matrix(np.ones((4, 2), np.float32)), obs=pd.DataFrame(index=barcodes))
    (tmp_path / "labels.tsv").write_text("".join(f"{barcode}\tof {barcode}\n" for barcode in reversed(barcodes)))
    add_labels(labelled, tmp_path / "labels.tsv", "1")
    assert labelled.obs["label"].tolist() == [f"of {barcode}" for barcode in barcodes]


def test_a_fault_of_ours_is_no_damaged_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.tsv").write_text(TABLES["header"])
    monkeypatch.setattr(pd, "read_csv", lambda path: None)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        add(tmp_path / "labels.tsv")


def test_a_zipped_table_is_read_and_the_labels_survive_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv.gz").write_bytes(gzip.compress(TABLES["header"].encode()))
    labelled = section()
    add_labels(labelled, tmp_path / "labels.tsv.gz", "151673")
    labelled.write_h5ad(tmp_path / "section.h5ad")
    assert read_h5ad(tmp_path / "section.h5ad").obs["label"].isna().tolist() == [False, False, True, False]


def test_the_number_of_labelled_spots_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "labels.tsv").write_text(TABLES["spots of no section"])
    with caplog.at_level(logging.INFO):
        add(tmp_path / "labels.tsv")
    assert "3 of 4 spots labelled; 1 labels of no spot" in caplog.text


def test_a_missing_table_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled = section()
    with caplog.at_level(logging.WARNING):
        add_labels(labelled, tmp_path / "labels.tsv", "151673")
    assert "labels.tsv" in caplog.text
    assert "label" not in labelled.obs


Edit = Callable[[Path], object]

DEFECTS: dict[str, tuple[Edit, str]] = {
    "barcodes lack -1": (
        lambda p: p.write_text("AAAC\tL1\n"), "no label for any spot: AAAC-1 in section 151673, AAAC in",
    ),
    "nothing but unlabelled": (lambda p: p.write_text("AAAC-1\tNA\n"), "no label for any spot"),
    "another section": (lambda p: p.write_text("AAAC-1\t151507\tL1\n"), "no section '151673' .*there are 151507"),
    "barcode twice": (lambda p: p.write_text("AAAC-1\tL1\nAAAC-1\tL2\n"), "barcode AAAC-1 twice"),
    "one column": (lambda p: p.write_text("AAAC-1\nAAAG-1\n"), "1 columns without a header"),
    "four columns": (lambda p: p.write_text("AAAC-1\ta\tb\tc\n"), "4 columns without a header"),
    "header without label": (lambda p: p.write_text("barcode\tlayer\nAAAC-1\tL1\n"), "also label"),
    "empty": (lambda p: p.write_text(""), "cannot be read"),
    "ragged": (lambda p: p.write_text("AAAC-1\tL1\nAAAG-1\tL1\tL2\tL3\n"), "cannot be read"),
    "binary": (lambda p: p.write_bytes(b"\xff\xfe\x00\x01" * 9), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_is_named(tmp_path: Path, edit: Edit, message: str) -> None:
    edit(tmp_path / "labels.tsv")
    with pytest.raises(InputError, match=message):
        add(tmp_path / "labels.tsv")

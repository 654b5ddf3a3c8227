"""Counts without an image, in every kind of file that people have them in."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.readers.reference import find_reference, read_reference

COUNTS = np.array([[3, 0, 1], [0, 2, 7]])
GENES, IDS, CELLS = ["A1BG", "TP53", "ACTB"], ["ENSG00000121410", "ENSG00000141510", "ENSG00000075624"], ["c1", "c2"]


def _table(path: Path, separator: str) -> Path:
    pd.DataFrame(COUNTS, index=CELLS, columns=GENES).to_csv(path, sep=separator)
    return path


def _h5ad(path: Path) -> Path:
    data = AnnData(
        csr_matrix(np.log1p(COUNTS)), pd.DataFrame(index=CELLS), pd.DataFrame({"gene_ids": IDS}, index=GENES)
    )
    data.layers["counts"] = csr_matrix(COUNTS)
    data.write_h5ad(path)
    return path


def _h5(path: Path) -> Path:
    counts = csr_matrix(COUNTS)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        parts = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr, "shape": counts.shape[::-1]}
        for name, values in parts.items():
            group[name] = values
        group["barcodes"] = np.array(CELLS, "S")
        features = {"id": IDS, "name": GENES, "feature_type": ["Gene Expression"] * 3}
        for name, values in features.items():
            group[f"features/{name}"] = np.array(values, "S")
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    mmwrite(path / "matrix.mtx", csr_matrix(COUNTS.T))
    (path / "barcodes.tsv").write_text("\n".join(CELLS))
    (path / "features.tsv").write_text("\n".join(f"{i}\t{g}\tGene Expression" for i, g in zip(IDS, GENES, strict=True)))
    return path


@pytest.mark.parametrize("kind", ["counts.tsv", "counts.tsv.gz", "counts.csv", "atlas.h5ad", "atlas.h5", "folder"])
def test_every_kind_of_counts_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if ".tsv" in kind or ".csv" in kind:
        _table(path, "," if ".csv" in kind else "\t")
    else:
        {"atlas.h5ad": _h5ad, "atlas.h5": _h5, "folder": _folder}[kind](path)
    found = read_reference(path)
    assert found.var_names.tolist() == GENES and found.obs_names.tolist() == CELLS
    np.testing.assert_array_equal(found.X.toarray(), COUNTS)
    if ".tsv" not in kind and ".csv" not in kind:
        assert found.var["gene_ids"].tolist() == IDS


def test_a_name_is_an_ingested_section_or_one_of_the_raw_ones(tmp_path: Path) -> None:
    stored, raw = tmp_path / "stored", tmp_path / "raw"
    (stored / "C1").mkdir(parents=True)
    (raw / "ST-cnts").mkdir(parents=True)
    _h5ad(stored / "C1" / "section.h5ad")
    _table(raw / "ST-cnts" / "D1.tsv.gz", "\t")
    for name in ("C1", "D1"):
        np.testing.assert_array_equal(find_reference(name, tmp_path, stored, raw).read().X.toarray(), COUNTS)
    _table(tmp_path / "mine.csv", ",")  # a path starts at the project's root
    np.testing.assert_array_equal(find_reference("mine.csv", tmp_path, stored, raw).read().X.toarray(), COUNTS)
    (tmp_path / "C1").mkdir()  # a folder that happens to be called like a section
    np.testing.assert_array_equal(find_reference("C1", tmp_path, stored, raw).read().X.toarray(), COUNTS)
    with pytest.raises(InputError, match="no reference 'E9'.*--params reference=C1"):
        find_reference("E9", tmp_path, stored, raw)


def test_what_holds_no_counts_is_refused(tmp_path: Path) -> None:
    pd.DataFrame(COUNTS + 0.5, index=CELLS, columns=GENES).to_csv(tmp_path / "a.tsv", sep="\t")
    with pytest.raises(InputError, match="fractional values"):
        read_reference(tmp_path / "a.tsv")
    (tmp_path / "a.rds").write_text("R")
    with pytest.raises(InputError, match="as a reference.*an .h5ad"):
        read_reference(tmp_path / "a.rds")
    (tmp_path / "b.h5ad").write_text("no HDF5")
    with pytest.raises(InputError):
        read_reference(tmp_path / "b.h5ad")

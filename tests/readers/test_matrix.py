"""A matrix holds each gene once per spot, as a count that fits; features that are no genes are left out and named."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.readers.matrix import read_matrix

BARCODES = ["ACGT-1", "CCGT-1", "GCGT-1"]
GENES = ["A", "B", "C", "D"]
COUNTS = np.array([[1, 0, 2, 5], [0, 3, 0, 6], [4, 0, 0, 7]])
MAX = 2**31 - 1
HEAD = "%%MatrixMarket matrix coordinate integer general\n"


def write_h5(folder: Path, counts: np.ndarray = COUNTS, types: list[object] | None = None, **parts: object) -> Path:
    path, by_spot = folder / "filtered_feature_bc_matrix.h5", csr_matrix(counts)
    arrays = {name: getattr(by_spot, name) for name in ("data", "indices", "indptr")}
    arrays |= {"shape": np.array(counts.shape[::-1]), "barcodes": np.array(BARCODES, "S")}
    arrays |= {"features/id": np.array([f"ENSG{g}" for g in GENES], "S"), "features/name": np.array(GENES, "S")}
    if types is not None:
        arrays["features/feature_type"] = np.array(types, h5py.string_dtype())
    with h5py.File(path, "w") as file:
        for name, values in (arrays | parts).items():
            file[f"matrix/{name}"] = values
    return path


def write_mtx(folder: Path, entries: str | None = None, types: list[str] | None = None) -> Path:
    path = folder / "filtered_feature_bc_matrix"
    path.mkdir(exist_ok=True)
    if entries is None:
        buffer = io.BytesIO()
        mmwrite(buffer, csr_matrix(COUNTS.T), field="integer")
        entries = buffer.getvalue().decode()
    (path / "matrix.mtx").write_text(entries)
    rows = [[f"ENSG{gene}", gene, *([types[i]] if types else [])] for i, gene in enumerate(GENES)]
    (path / "features.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (path / "barcodes.tsv").write_text("\n".join(BARCODES) + "\n")
    return path


def write(folder: Path, form: str, types: list[str] | None = None) -> Path:
    return write_h5(folder, types=types) if form == "h5" else write_mtx(folder, types=types)


def require_counts(matrix: AnnData, genes: list[str] = GENES) -> None:
    assert matrix.obs_names.tolist() == BARCODES
    assert matrix.var_names.tolist() == genes
    assert matrix.var["gene_ids"].tolist() == [f"ENSG{g}" for g in genes]
    assert matrix.X.dtype == np.int32
    assert matrix.X.has_canonical_format
    np.testing.assert_array_equal(matrix.X.toarray(), COUNTS[:, [GENES.index(g) for g in genes]])


@pytest.mark.parametrize("kind", ["i4", "u4", "i8", "u8", "u2", "f4", "f8"])
def test_whole_counts_of_every_type_are_read(tmp_path: Path, kind: str) -> None:
    require_counts(read_matrix(write_h5(tmp_path, COUNTS.astype(kind))))


@pytest.mark.parametrize("kind", ["i4", "u4", "i8", "f8"])
def test_the_largest_count_comes_back(tmp_path: Path, kind: str) -> None:
    """A float32 would round it."""
    large = COUNTS.astype(kind)
    large[2, 3] = MAX - 2
    assert read_matrix(write_h5(tmp_path, large)).X[2, 3] == MAX - 2


def test_genes_in_any_order_within_a_spot(tmp_path: Path) -> None:
    order = np.array([2, 0, 1, 4, 3, 6, 5])
    by_spot = csr_matrix(COUNTS)
    require_counts(read_matrix(write_h5(tmp_path, data=by_spot.data[order], indices=by_spot.indices[order])))


def test_stored_zeros_are_none(tmp_path: Path) -> None:
    entries = HEAD + "4 3 8\n1 1 1\n3 1 2\n4 1 5\n2 2 3\n4 2 6\n1 3 4\n4 3 7\n2 3 0\n"
    matrix = read_matrix(write_mtx(tmp_path, entries))
    require_counts(matrix)
    assert matrix.X.nnz == 7


DEFECTS: dict[str, tuple[dict[str, object], str]] = {
    "above 2^31": ({"counts": COUNTS * 10**9}, "values above 2"),
    "above 2^31, unsigned": ({"counts": (COUNTS * 5 * 10**8).astype(np.uint32)}, "values above 2"),
    "above 2^31, float": ({"counts": COUNTS * 1e9}, "values above 2"),
    "above 2^63": ({"counts": COUNTS.astype(np.uint64) * np.uint64(2**61)}, "values above 2"),
    "a gene twice in a spot": ({"indices": np.array([0, 0, 3, 1, 3, 0, 3])}, "a gene twice in one spot"),
    "text for counts": ({"data": np.array([b"1"] * 7)}, "values of type"),
    "ids that are numbers": ({"features/id": np.arange(4)}, "cannot be read"),
    "a group for barcodes": ({"barcodes": None, "barcodes/x": 1}, "it has no matrix/barcodes"),
    "infinite": ({"counts": np.where(COUNTS == 7, np.inf, COUNTS)}, "missing or infinite"),
}


@pytest.mark.parametrize(("parts", "message"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_of_the_h5_is_named(tmp_path: Path, parts: dict[str, object], message: str) -> None:
    if "barcodes/x" in parts:
        path = write_h5(tmp_path)
        with h5py.File(path, "r+") as file:
            del file["matrix/barcodes"]
            file["matrix/barcodes/x"] = 1
    else:
        path = write_h5(tmp_path, **parts)  # type: ignore[arg-type]
    require_named(path, message)


ENTRIES: dict[str, tuple[str, str]] = {
    "an entry twice": ("4 3 3\n1 1 1\n1 1 2\n2 2 3\n", "a gene twice in one spot"),
    "an equal entry twice": ("4 3 3\n1 1 1\n1 1 1\n2 2 3\n", "a gene twice in one spot"),
    "gene that is not there": ("4 3 1\n5 1 1\n", "cannot be read .*out of bounds"),
    "gene 0": ("4 3 1\n0 1 1\n", "cannot be read .*out of bounds"),
    "above 2^31": ("4 3 1\n1 1 2147483648\n", "values above 2"),
    "above 2^63": ("4 3 1\n1 1 99999999999999999999\n", "cannot be read .*out of range"),
    "negative": ("4 3 1\n1 1 -1\n", "negative values"),
    "too few entries": ("4 3 2\n1 1 1\n", "cannot be read"),
    "more genes than features": ("5 3 1\n1 1 1\n", "cannot be read .*3, 5. values for 3 spots and 4 genes"),
    "nothing": ("4 3 0\n", "no gene expression"),
}


@pytest.mark.parametrize(("entries", "message"), ENTRIES.values(), ids=ENTRIES)
def test_a_defect_of_the_mtx_is_named(tmp_path: Path, entries: str, message: str) -> None:
    require_named(write_mtx(tmp_path, HEAD + entries), message)


def test_a_dense_mtx_is_read(tmp_path: Path) -> None:
    values = "".join(f"{value}\n" for value in COUNTS.ravel())
    require_counts(read_matrix(write_mtx(tmp_path, f"%%MatrixMarket matrix array integer general\n4 3\n{values}")))


def require_named(path: Path, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_matrix(path)
    assert re.fullmatch(f"Found: .*{message}.*", str(caught.value), re.DOTALL), caught.value
    assert str(path) in str(caught.value)


GENE = "Gene Expression"


@pytest.mark.parametrize("form", ["h5", "mtx"])
@pytest.mark.parametrize("gene", [GENE, "gene expression", "Gene_Expression", " Gene Expression ", "", "NA"])
def test_what_is_no_gene_is_left_out_and_named(
    tmp_path: Path, form: str, gene: str, caplog: pytest.LogCaptureFixture
) -> None:
    types = [gene, "Antibody Capture", GENE, "Antibody Capture"]
    with caplog.at_level(logging.INFO):
        require_counts(read_matrix(write(tmp_path, form, types)), ["A", "C"])
    assert "2 of 4 features" in caplog.text and "Antibody Capture" in caplog.text


@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_all_are_genes_where_no_type_is_stated(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        require_counts(read_matrix(write(tmp_path, form)))
    assert "features" not in caplog.text


@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_types_of_which_none_is_a_gene_are_named(tmp_path: Path, form: str) -> None:
    path = write(tmp_path, form, ["Antibody Capture"] * 3 + ["CRISPR Guide Capture"])
    with pytest.raises(InputError, match="no gene .*Antibody Capture.*CRISPR Guide Capture"):
        read_matrix(path)


@pytest.mark.parametrize("kind", ["float16", "float64", "uint8", "uint64", "int16"])
def test_counts_of_any_number_type_are_read(tmp_path: Path, kind: str) -> None:
    require_counts(read_matrix(write_h5(tmp_path, data=csr_matrix(COUNTS).data.astype(kind))))


@pytest.mark.parametrize("form", ["h5", "mtx"])
def test_counts_of_antibodies_alone_are_no_gene_expression(tmp_path: Path, form: str) -> None:
    path = write_h5(tmp_path, COUNTS * [0, 1, 0, 1], [GENE, "Antibody Capture"] * 2)
    if form == "mtx":
        path = write_mtx(tmp_path, HEAD + "4 3 1\n2 1 5\n", [GENE, "Antibody Capture"] * 2)
    require_named(path, "no gene expression")


def test_a_fault_of_ours_is_no_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a library no longer knows an argument that it is called with."""
    monkeypatch.setattr(pd, "read_csv", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        read_matrix(write_mtx(tmp_path))

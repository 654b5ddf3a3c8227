"""h5ad files as labs keep them: what is read, what is recovered, and what is refused, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csc_matrix, csr_matrix

from spamcaf.datasets.stored import AnnDataDataset
from spamcaf.errors import InputError
from spamcaf.readers.anndata_parts import recover_counts
from spamcaf.readers.files import SectionQuery, reading
from spamcaf.readers.h5ad import H5adReader, find

N_SPOTS, N_GENES = 24, 40
ROW, STEP = np.divmod(np.arange(N_SPOTS), 4)
COLUMN = 2 * STEP + ROW % 2
XY = np.column_stack([30.0 + 20 * COLUMN, 15.0 + 34.6 * ROW])
COUNTS = np.random.default_rng(0).poisson(1.0, (N_SPOTS, N_GENES))
FACTORS = {
    "spot_diameter_fullres": 26.0,
    "tissue_hires_scalef": 0.1,
    "fiducial_diameter_fullres": 40.0,
}
HIRES = np.random.default_rng(1).integers(0, 256, (25, 20, 3), dtype=np.uint8)


def visium(x: object = None) -> AnnData:
    """A Visium section as scanpy reads it."""
    data = AnnData(csr_matrix(COUNTS.astype(np.float32)) if x is None else x)
    data.obs_names = [f"SPOT{i}-1" for i in range(N_SPOTS)]
    data.var_names = [f"Gene{i}" for i in range(N_GENES)]
    data.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(N_GENES)]
    data.obs["in_tissue"], data.obs["array_row"], data.obs["array_col"] = 1, ROW, COLUMN
    data.obsm["spatial"] = XY.copy()
    data.uns["spatial"] = {"lib": {"images": {"hires": HIRES}, "scalefactors": dict(FACTORS), "metadata": {}}}
    return data


def normalised(counts: np.ndarray = COUNTS) -> np.ndarray:
    depth = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.log1p(counts / depth * 1e4).astype(np.float32)


def write(folder: Path, data: AnnData, name: str = "A1.h5ad") -> Path:
    data.write_h5ad(folder / name)
    return folder / name


def reader(root: Path, section: str = "A1", image: Path | None = None) -> H5adReader:
    found = find(SectionQuery(root, section, image))
    assert found is not None
    return found


def read(folder: Path, data: AnnData, section: str = "A1") -> AnnData:
    return reader(write(folder, data), section).read()


def write_image(path: Path, rows: int = 250, columns: int = 200) -> Path:
    Image.fromarray(np.full((rows, columns, 3), 200, np.uint8)).save(path)
    return path


# counts


def in_layer() -> AnnData:
    data = visium(csr_matrix(normalised()))
    data.layers["counts"] = csr_matrix(COUNTS)
    return data


def in_raw() -> AnnData:
    data = visium()
    data.raw = data
    data.X = csr_matrix(normalised())
    return data[:, :7].copy()  # the highly variable ones; raw keeps all


def scaled_with_lognorm_raw() -> AnnData:
    data = visium(csr_matrix(normalised()))
    data.raw = data
    data.X = normalised() - normalised().mean(axis=0)
    return data


def layer_and_lognorm_raw() -> AnnData:
    """What the usual tutorials leave behind: counts of the variable genes in a layer, raw log-normalised."""
    data = in_layer()
    data.raw = data
    return data[:, 5:12].copy()


def lognorm_of_some_and_all() -> AnnData:
    data = scaled_with_lognorm_raw()
    data.X = csr_matrix(normalised())
    return data[:, :30].copy()


def counts_of_some_and_all() -> AnnData:
    data = visium()
    data.raw = data
    return data[:, [11, 3, 29]].copy()


def base_2() -> AnnData:
    data = visium(csr_matrix(normalised() / np.log(2)))
    data.uns["log1p"] = {"base": 2.0}
    return data


COUNTS_FROM: dict[str, tuple[Callable[[], AnnData], str]] = {
    "csr float32": (visium, "X"),
    "csc int": (lambda: visium(csc_matrix(COUNTS)), "X"),
    "dense float64": (lambda: visium(COUNTS.astype(np.float64)), "X"),
    "dense uint16": (lambda: visium(COUNTS.astype(np.uint16)), "X"),
    "layer": (in_layer, "layers['counts']"),
    "raw": (in_raw, "raw.X"),
    "lognorm": (lambda: visium(csr_matrix(normalised())), "recovered from X, log1p-normalised"),
    "lognorm dense": (lambda: visium(normalised()), "recovered from X, log1p-normalised"),
    "lognorm csc": (lambda: visium(csc_matrix(normalised())), "recovered from X, log1p-normalised"),
    "lognorm base 2": (base_2, "recovered from X, log1p-normalised"),
    "scaled, raw lognorm": (scaled_with_lognorm_raw, "recovered from raw.X, log1p-normalised"),
    "some, raw has all": (counts_of_some_and_all, "raw.X, the full matrix of 40 genes; X holds 3 of them"),
    "some in a layer, raw lognorm": (
        layer_and_lognorm_raw,
        "recovered from raw.X, log1p-normalised, the full matrix of 40 genes; layers['counts'] holds 7 of them",
    ),
    "lognorm of some, raw of all": (lognorm_of_some_and_all, "recovered from raw.X, log1p-normalised"),
}


@pytest.mark.parametrize(("make", "origin"), COUNTS_FROM.values(), ids=COUNTS_FROM)
def test_counts_are_those_that_were_measured(tmp_path: Path, make: Callable[[], AnnData], origin: str) -> None:
    section = read(tmp_path, make())
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    assert isinstance(section.X, csr_matrix) and section.X.dtype == np.int32
    assert section.uns["section"]["counts_from"] == origin
    assert list(section.var["gene_ids"]) == list(visium().var["gene_ids"])
    assert list(section.obs_names) == list(visium().obs_names)


def test_recovering_counts_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, visium(csr_matrix(normalised())))
    assert "recovered from X" in caplog.text


def other_raw(change: Callable[[np.ndarray], np.ndarray], names: list[str] | None = None) -> AnnData:
    data = visium()
    data.raw = visium(csr_matrix(change(COUNTS.astype(np.float32))))
    if names is not None:
        data.raw.var.index = names
    return data[:, :7].copy()


def selected() -> AnnData:
    data = visium()
    data.var["highly_variable"] = np.arange(N_GENES) < 7
    return data[:, data.var["highly_variable"]].copy()


SOME_GENES = {
    "raw scaled": lambda: other_raw(lambda counts: counts - counts.mean(axis=0)),
    "raw of other values": lambda: other_raw(lambda counts: counts + 1),
    "raw of other genes": lambda: other_raw(lambda counts: counts, [f"Other{i}" for i in range(N_GENES)]),
    "raw with a name twice": lambda: other_raw(lambda counts: counts, ["Gene0", *visium().var_names[:-1]]),
    "no raw": selected,
}


@pytest.mark.filterwarnings("ignore:.* names are not unique")
@pytest.mark.parametrize("make", SOME_GENES.values(), ids=SOME_GENES)
def test_counts_of_some_genes_are_taken_with_a_warning_of_the_depth(
    tmp_path: Path, make: Callable[[], AnnData], caplog: pytest.LogCaptureFixture
) -> None:
    section = read(tmp_path, make())
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[:, :7])
    assert section.uns["section"]["counts_from"] == "X"
    assert "X of A1.h5ad has counts of 7 chosen genes only" in caplog.text


def test_all_genes_are_no_reason_for_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = visium()
    data.var["highly_variable"] = np.arange(N_GENES) < 7
    data.raw = data
    read(tmp_path, data)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_raw_with_other_spots_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, counts_of_some_and_all())
    with h5py.File(path, "a") as file:
        file["raw/X"].attrs["shape"] = (N_SPOTS - 1, N_GENES)
        indptr = file["raw/X/indptr"][:-1]
        del file["raw/X/indptr"]
        file["raw/X/indptr"] = indptr
    with pytest.raises(InputError, match=r"raw\.X of A1.h5ad is damaged \(\(23, 40\) values for 24 spots"):
        reader(path).read()


def equal_totals() -> np.ndarray:
    return np.rint(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4)


NO_COUNTING = {
    "binarised": (lambda: COUNTS > 0, "no number above 1: it looks binarised"),
    "rounded": (equal_totals, "as the total of nearly every spot: it looks normalised and rounded"),
    "rounded, two spots off": (
        lambda: np.where(np.arange(N_SPOTS)[:, None] < 1, COUNTS, equal_totals()), "normalised and rounded",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), NO_COUNTING.values(), ids=NO_COUNTING)
def test_whole_numbers_that_are_no_counts_are_read_with_a_warning(
    tmp_path: Path, make: Callable[[], np.ndarray], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    section = read(tmp_path, visium(csr_matrix(make().astype(np.float32))))
    np.testing.assert_array_equal(section.X.toarray(), make())
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and message in warnings[0]


def rare_ones() -> AnnData:
    counts = np.random.default_rng(2).integers(2, 60, (N_SPOTS, N_GENES))
    counts[:, 0] = 1
    return visium(csr_matrix(normalised(counts)))


def with_value(value: float) -> AnnData:
    counts = COUNTS.astype(np.float32)
    counts[3, 4] = value
    return visium(csr_matrix(counts))


NO_COUNTS = {
    "noise": lambda: visium(csr_matrix(normalised() * np.linspace(1, 1.3, N_GENES))),
    "smallest is no 1": rare_ones,
    "not logged": lambda: visium(csr_matrix(COUNTS * 0.37)),
    "negative": lambda: with_value(-1),
    "NaN": lambda: with_value(np.nan),
    "infinite": lambda: with_value(np.inf),
    "zeros": lambda: visium(csr_matrix(COUNTS * 0)),
    "beyond int32": lambda: with_value(2.0**40),
    "no matrix": lambda: AnnData(obs=visium().obs, var=visium().var, obsm={"spatial": XY}),
}


@pytest.mark.parametrize("make", NO_COUNTS.values(), ids=NO_COUNTS)
def test_without_raw_counts_nothing_is_guessed(tmp_path: Path, make: Callable[[], AnnData]) -> None:
    with pytest.raises(InputError, match=r"no raw counts.*layers\['counts'\]"):
        read(tmp_path, make())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(100, 1e6), st.floats(0.5, 3), st.sampled_from([np.float32, np.float64]))
def test_any_normalised_counts_come_back(seed: int, target: float, mean: float, dtype: type) -> None:
    generator = np.random.default_rng(seed)
    counts = generator.poisson(generator.gamma(1.0, mean, (1, 120)), (30, 120)) + (np.arange(120) % 12 == 0)
    values = np.log1p(counts / counts.sum(axis=1, keepdims=True) * target).astype(dtype)
    recovered = recover_counts(csr_matrix(values))
    assert recovered is not None
    np.testing.assert_array_equal(recovered.toarray(), counts)


# coordinates and obs


def without_obsm(data: AnnData) -> AnnData:
    del data.obsm["spatial"]
    return data


def third_column(data: AnnData) -> None:
    data.obsm["spatial"] = np.column_stack([XY, np.zeros(N_SPOTS)])


def other_key(data: AnnData) -> None:
    without_obsm(data).obsm["X_spatial"] = XY


def as_frame(data: AnnData) -> None:
    data.obsm["spatial"] = pd.DataFrame(XY, index=data.obs_names, columns=["x", "y"])


def obs_columns(data: AnnData) -> None:
    without_obsm(data).obs[["pxl_col_in_fullres", "pxl_row_in_fullres"]] = XY


def whole_pixels(data: AnnData) -> None:
    data.obsm["spatial"] = np.rint(XY).astype(np.int64)


@pytest.mark.parametrize("change", [third_column, other_key, as_frame, obs_columns, whole_pixels])
def test_coordinates_are_x_and_y(tmp_path: Path, change: Callable[[AnnData], None]) -> None:
    data = visium()
    change(data)
    xy = read(tmp_path, data).obsm["spatial"]
    assert xy.dtype == np.float64
    np.testing.assert_allclose(xy, np.rint(XY) if change is whole_pixels else XY)


OFF = np.arange(N_SPOTS) % 5 == 0
IN_TISSUE = {
    "bool": ~OFF,
    "nullable bool": pd.array(~OFF, dtype="boolean"),
    "nullable int": pd.array((~OFF).astype(int), dtype="Int64"),
    "float": (~OFF).astype(float),
    "text": np.where(OFF, "0", "1"),
    "words": np.where(OFF, "False", "True"),
    "categorical": pd.Categorical(np.where(OFF, "0", "1")),
}


@pytest.mark.parametrize("values", IN_TISSUE.values(), ids=IN_TISSUE)
def test_in_tissue_is_0_or_1(tmp_path: Path, values: object) -> None:
    data = visium()
    data.obs["in_tissue"] = values
    column = read(tmp_path, data).obs["in_tissue"]
    assert column.dtype == np.int64
    np.testing.assert_array_equal(column, (~OFF).astype(int))


def test_all_spots_are_on_tissue_where_the_file_does_not_state(tmp_path: Path) -> None:
    data = visium()
    del data.obs["in_tissue"]
    assert (read(tmp_path, data).obs["in_tissue"] == 1).all()


@pytest.mark.parametrize("rows", [ROW + 0.5, np.where(OFF, np.nan, ROW), None], ids=["fractions", "NaN", "absent"])
def test_array_indices_are_left_out_unless_whole(tmp_path: Path, rows: np.ndarray | None) -> None:
    data = visium()
    del data.obs["array_row"]
    if rows is not None:
        data.obs["array_row"] = rows
    assert list(read(tmp_path, data).obs.columns) == ["in_tissue"]


def test_array_indices_are_kept_as_whole_numbers(tmp_path: Path) -> None:
    data = visium()
    data.obs["array_row"] = data.obs["array_row"].astype(float)
    data.obs["array_col"] = pd.Categorical(data.obs["array_col"].astype(str))
    section = read(tmp_path, data)
    np.testing.assert_array_equal(section.obs[["array_row", "array_col"]], np.column_stack([ROW, COLUMN]))


# genes


def test_genes_that_share_a_symbol_keep_their_ids(tmp_path: Path) -> None:
    data = visium()
    data.var_names = ["TBCE", "A", "TBCE"] + [f"Gene{i}" for i in range(3, N_GENES)]
    section = read(tmp_path, data)
    assert list(section.var_names[:3]) == ["TBCE", "A", f"TBCE_ENSG{2:011d}"]


@pytest.mark.parametrize("column", ["gene_id", "ensembl_id", "feature_id"])
def test_ids_are_found_under_other_names(tmp_path: Path, column: str) -> None:
    data = visium()
    data.var = data.var.rename(columns={"gene_ids": column})
    assert list(read(tmp_path, data).var["gene_ids"]) == list(data.var[column])


def test_an_index_of_ensembl_ids_gives_ids_and_a_column_the_symbols(tmp_path: Path) -> None:
    data = visium()
    data.var = pd.DataFrame({"feature_name": data.var_names}, index=pd.Index(data.var["gene_ids"].to_numpy()))
    section = read(tmp_path, data)
    assert list(section.var_names) == list(visium().var_names)
    assert list(section.var["gene_ids"]) == list(visium().var["gene_ids"])


def test_symbols_stand_in_where_there_are_no_ids(tmp_path: Path) -> None:
    data = visium()
    del data.var["gene_ids"]
    section = read(tmp_path, data)
    assert list(section.var["gene_ids"]) == list(section.var_names)


def test_antibodies_are_no_genes(tmp_path: Path) -> None:
    data = visium()
    data.var["feature_types"] = ["Antibody Capture"] + ["Gene Expression"] * (N_GENES - 1)
    section = read(tmp_path, data)
    assert section.n_vars == N_GENES - 1 and "Gene0" not in section.var_names


TYPES = {
    "missing": ([np.nan] * 3, 3),
    "missing in one section of two": (["Gene Expression", np.nan, "Gene Expression"], 3),
    "empty": (["", "Gene Expression", "nan"], 3),
    "lower case": (["gene expression", "GENE EXPRESSION", "Gene_Expression"], 3),
    "short": (["GEX", "gene", " Gene  Expression "], 3),
    "others": (["Antibody Capture", "Gene Expression", None], 2),
}


@pytest.mark.parametrize(("types", "n_kept"), TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("dtype", [None, "category"])
def test_a_gene_is_what_is_not_called_otherwise(
    tmp_path: Path, types: list[object], n_kept: int, dtype: object
) -> None:
    data = visium()
    column = (types * N_GENES)[:N_GENES]
    data.var["feature_types"] = pd.Series(column, index=data.var_names, dtype=dtype)
    section = read(tmp_path, data)
    kept = [name for name, kind in zip(data.var_names, column, strict=True) if kind != "Antibody Capture"]
    assert list(section.var_names) == kept
    assert (n_kept == 3) == (len(kept) == N_GENES)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = visium()
    data.var["feature_types"] = ["Antibody Capture"] * 3 + ["CRISPR"] + ["gene expression"] * (N_GENES - 4)
    read(tmp_path, data)
    assert "4 of 40 features are no genes and are left out: 'Antibody Capture' (3), 'CRISPR' (1)" in caplog.text


def test_types_without_a_gene_are_named(tmp_path: Path) -> None:
    data = visium()
    data.var["feature_types"] = ["protein"] * (N_GENES - 1) + ["Antibody Capture"]
    with pytest.raises(InputError, match=r"no gene among 40 features: .* 'protein' \(39\), 'Antibody Capture' \(1\)"):
        read(tmp_path, data)


# names that look like something else

NAMES = ["1", "0001", "007", "1e3", "NA", "nan", "None", "inf", "TRUE", "1.0", "-1", "12345678901234567890"]


def test_names_are_text_as_they_are_written(tmp_path: Path) -> None:
    data = visium()
    data.obs_names = [*NAMES, *(f"{i}" for i in range(100, 100 + N_SPOTS - len(NAMES)))]
    data.var_names = [*NAMES, *(f"{i}" for i in range(100, 100 + N_GENES - len(NAMES)))]
    del data.var["gene_ids"]
    section = read(tmp_path, data)
    for ours, theirs in ((section.obs_names, data.obs_names), (section.var_names, data.var_names)):
        assert ours.tolist() == theirs.tolist()
        assert all(type(name) is str for name in ours)
    assert section.var["gene_ids"].tolist() == data.var_names.tolist()
    stored = AnnDataDataset(filepath=str(tmp_path / "section.h5ad"))
    stored.save(section)
    assert stored.load().obs_names.tolist() == data.obs_names.tolist()
    assert stored.load().var["gene_ids"].tolist() == data.var_names.tolist()


def replace(path: Path, key: str, value: object) -> None:
    parent, name = key.rpartition("/")[::2]
    with h5py.File(path, "a") as file:
        group = file[parent or "/"]
        del group[name]
        with anndata.settings.override(allow_write_nullable_strings=True):
            anndata.io.write_elem(group, name, value)


def index_of(path: Path, frame: str, values: np.ndarray) -> None:
    with h5py.File(path) as file:
        key = f"{frame}/{file[frame].attrs['_index']}"
    replace(path, key, values)


INDICES = {
    "integers": lambda n: np.arange(1, n + 1),
    "floats": lambda n: np.arange(1.0, n + 1),
    "bytes": lambda n: np.array([f"{i}".encode() for i in range(1, n + 1)]),
    "nullable text": lambda n: pd.array([f"{i}" for i in range(1, n + 1)], dtype="string"),
    "nullable integers": lambda n: pd.array(range(1, n + 1), dtype="Int64"),
    "categories": lambda n: pd.Categorical([f"{i}" for i in range(1, n + 1)]),
    "integer categories": lambda n: pd.Categorical(range(1, n + 1)),
}


@pytest.mark.parametrize("make", INDICES.values(), ids=INDICES)
def test_names_of_other_tools_become_text(tmp_path: Path, make: Callable[[int], np.ndarray]) -> None:
    data = visium()
    del data.var["gene_ids"]
    path = write(tmp_path, data)
    index_of(path, "obs", make(N_SPOTS))
    index_of(path, "var", make(N_GENES))
    section = reader(path).read()
    assert section.obs_names.tolist() == [str(i) for i in range(1, N_SPOTS + 1)]
    assert section.var_names.tolist() == section.var["gene_ids"].tolist() == [str(i) for i in range(1, N_GENES + 1)]
    np.testing.assert_array_equal(section[["1", "10"]].X.toarray(), COUNTS[[0, 9]])


def test_spots_and_genes_without_a_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, visium())
    index_of(path, "obs", np.array(["", "", *(str(i) for i in range(2, N_SPOTS))], object))
    with pytest.raises(InputError, match="2 of 24 spots without a name in A1.h5ad"):
        reader(path).read()
    data = visium()
    del data.var["gene_ids"]
    path = write(tmp_path, data)
    index_of(path, "var", np.array(["", *(str(i) for i in range(1, N_GENES))], object))
    with pytest.raises(InputError, match="1 of 40 genes without a name in A1.h5ad"):
        reader(path).read()


# scale and thumbnails


def test_a_visium_file_states_lattice_and_scale(tmp_path: Path) -> None:
    facts = read(tmp_path, visium()).uns["section"]
    assert (facts["lattice"], facts["pitch_um"], facts["spot_diameter_um"]) == ("hexagonal", 100.0, 55.0)
    assert (facts["spot_diameter_px"], facts["fiducial_diameter_px"]) == (26.0, 40.0)
    assert "mpp" not in facts  # a spot's diameter stands for 55 to 70 um, by who wrote it
    assert facts["name"] == "A1" and facts["n_unmatched"] == 0


def hest(data: AnnData) -> None:
    """Another tool's scale factors: `spot_diameter_fullres` means 55 um there."""
    data.uns["spatial"]["lib"]["scalefactors"] = {
        "spot_diameter_fullres": 22.0,
        "tissue_downscaled_fullres_scalef": 0.1,
    }


def square_array(data: AnnData) -> None:
    data.obs["array_col"] = STEP


def no_record(data: AnnData) -> None:
    del data.uns["spatial"]


@pytest.mark.parametrize("change", [hest, square_array, no_record])
def test_nothing_is_stated_that_the_file_does_not_state(tmp_path: Path, change: Callable[[AnnData], None]) -> None:
    data = visium()
    change(data)
    stated = {"lattice", "pitch_um", "spot_diameter_um", "spot_diameter_px", "fiducial_diameter_px", "mpp"}
    assert not stated & set(read(tmp_path, data).uns["section"])


def test_a_stated_pixel_size_wins(tmp_path: Path) -> None:
    data = visium()
    data.uns["spatial"]["lib"]["metadata"]["mpp"] = 2.6
    assert read(tmp_path, data).uns["section"]["mpp"] == 2.6


def test_visium_hd_bins_are_no_spots_of_55_um(tmp_path: Path) -> None:
    data = visium()
    data.obs["array_col"] = STEP
    data.uns["spatial"]["lib"]["scalefactors"] |= {"bin_size_um": 16.0, "microns_per_pixel": 0.5}
    facts = read(tmp_path, data).uns["section"]
    assert (facts["lattice"], facts["pitch_um"], facts["spot_diameter_um"], facts["mpp"]) == ("square", 16, 16, 0.5)


def test_images_are_kept_under_the_sections_name(tmp_path: Path) -> None:
    data = visium()
    data.uns["spatial"]["lib"]["images"]["lowres"] = (HIRES[::2, ::2] / 255).astype(np.float32)
    record = read(tmp_path, data).uns["spatial"]["A1"]
    np.testing.assert_array_equal(record["images"]["hires"], HIRES)
    np.testing.assert_array_equal(record["images"]["lowres"], HIRES[::2, ::2])
    assert record["scalefactors"] == FACTORS


@pytest.mark.parametrize(
    "wrong", [HIRES / 50, HIRES[..., 0], HIRES.astype(np.uint16)], ids=["bright", "gray", "16 bit"]
)
def test_a_thumbnail_that_is_no_image_is_left_out(
    tmp_path: Path, wrong: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    data = visium()
    data.uns["spatial"]["lib"]["images"]["hires"] = wrong
    assert read(tmp_path, data).uns["spatial"]["A1"]["images"] == {}
    assert "hires of A1.h5ad is no RGB image" in caplog.text


# libraries


def two_libraries(column: str | None) -> AnnData:
    data = visium()
    labels = np.where(np.arange(N_SPOTS) < 9, "L1", "L2")
    if column is not None:
        data.obs[column] = pd.Categorical(labels)
    factors = {"L1": FACTORS, "L2": {**FACTORS, "spot_diameter_fullres": 25.0}}
    data.uns["spatial"] = {name: {"images": {}, "scalefactors": value} for name, value in factors.items()}
    return data


@pytest.mark.parametrize("column", ["library_id", "sample"])
def test_the_library_of_the_sections_name_is_taken(tmp_path: Path, column: str) -> None:
    section = read(tmp_path, two_libraries(column), section="L2")
    assert section.n_obs == N_SPOTS - 9
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[9:])
    np.testing.assert_array_equal(section.obsm["spatial"], XY[9:])
    assert section.uns["section"]["spot_diameter_px"] == 25.0
    assert list(section.uns["spatial"]) == ["L2"]


@pytest.mark.parametrize("numbers", [[1, 2], [1.0, 2.0], pd.Categorical([1, 2]), ["1", "2"]], ids=str)
@pytest.mark.parametrize("column", ["library_id", "sample"])
def test_libraries_may_be_numbers(tmp_path: Path, column: str, numbers: object) -> None:
    data = two_libraries(None)
    data.obs[column] = pd.Series(numbers).iloc[(np.arange(N_SPOTS) >= 9).astype(int)].to_numpy()
    data.uns["spatial"] = {"1": data.uns["spatial"]["L1"], "2": data.uns["spatial"]["L2"]}
    section = read(tmp_path, data, section="2")
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[9:])
    assert section.uns["section"]["spot_diameter_px"] == 25.0


def test_spots_of_no_library_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = visium()
    data.obs["library_id"] = pd.Categorical(np.where(np.arange(N_SPOTS) < 9, None, "lib"))
    assert read(tmp_path, data).n_obs == N_SPOTS - 9
    assert "9 spots of A1.h5ad are of no library" in caplog.text
    for nothing in (None, ""):
        data.obs["library_id"] = pd.Categorical([nothing] * N_SPOTS)
        assert read(tmp_path, data).n_obs == N_SPOTS


def test_one_library_left_of_two_is_found_by_its_spots(tmp_path: Path) -> None:
    section = read(tmp_path, two_libraries("library_id")[9:].copy())
    assert section.n_obs == N_SPOTS - 9 and section.uns["section"]["spot_diameter_px"] == 25.0


@pytest.mark.parametrize(("column", "section"), [("library_id", "A1"), (None, "L1")])
def test_several_libraries_are_listed(tmp_path: Path, column: str | None, section: str) -> None:
    with pytest.raises(InputError, match="2 libraries in A1.h5ad[^.]*: L1, L2"):
        read(tmp_path, two_libraries(column), section)


# defects


def no_coordinates(data: AnnData) -> None:
    without_obsm(data)


def missing_coordinates(data: AnnData) -> None:
    data.obsm["spatial"][[2, 5], 0] = np.nan


def one_coordinate(data: AnnData) -> None:
    data.obsm["spatial"] = XY[:, :1]


def word_in_tissue(data: AnnData) -> None:
    data.obs["in_tissue"] = "maybe"


def unknown_tissue(data: AnnData) -> None:
    data.obs["in_tissue"] = pd.array([None] + [True] * (N_SPOTS - 1), dtype="boolean")


def repeated_barcode(data: AnnData) -> None:
    data.obs_names = ["SPOT1-1", *data.obs_names[1:]]


def repeated_gene(data: AnnData) -> None:
    data.var_names = ["Gene1", *data.var_names[1:]]
    del data.var["gene_ids"]


def prediction(data: AnnData) -> None:
    data.uns["spamcaf"] = "{}"


DEFECTS = {
    no_coordinates: "no spatial coordinates in A1.h5ad",
    missing_coordinates: f"2 of {N_SPOTS} spots of A1.h5ad without coordinates",
    one_coordinate: "one coordinate per spot",
    word_in_tissue: f"'maybe' as in_tissue of {N_SPOTS} spots",
    unknown_tissue: "as in_tissue of 1 spots",
    repeated_barcode: "barcode SPOT1-1 twice",
    repeated_gene: "gene Gene1.* twice",
    prediction: "a prediction of spamcaf",
}


@pytest.mark.filterwarnings("ignore:.* names are not unique")
@pytest.mark.parametrize(("change", "message"), DEFECTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_defects_are_named(tmp_path: Path, change: Callable[[AnnData], None], message: str) -> None:
    data = visium()
    change(data)
    with pytest.raises(InputError, match=message):
        read(tmp_path, data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("spot,x,y\n", encoding="utf-8")


def a_10x_matrix(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("matrix")


def external_link(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["uns/stolen"] = h5py.ExternalLink("/etc/hostname", "/x")


def index_out_of_range(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["X/indices"][0] = 10**6


def gene_twice(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["X/indices"][1] = file["X/indices"][0]


def short_matrix(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["X"].attrs["shape"] = (N_SPOTS, N_GENES + 1)


def short_coordinates(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["obsm/spatial"]
        file["obsm/spatial"] = XY[:5]


BROKEN = [truncated, text, a_10x_matrix, external_link, index_out_of_range, gene_twice, short_matrix, short_coordinates]


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_file_is_an_input_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write(tmp_path, visium())
    damage(path)
    with pytest.raises(InputError, match="A1.h5ad"):
        reader(tmp_path).read()


@pytest.mark.parametrize("key", ["obs", "var", "X", "obsm/spatial", "uns/log1p", "uns/spatial", "raw", "layers/counts"])
@pytest.mark.parametrize("value", [{"a": 1}, 3.0, "text", np.zeros((2, 2, 2))], ids=["group", "number", "text", "cube"])
def test_a_part_of_another_kind_is_an_input_error_or_left_alone(tmp_path: Path, key: str, value: object) -> None:
    data = counts_of_some_and_all()
    data.layers["counts"] = data.X
    data.uns["log1p"] = {"base": None}
    path = write(tmp_path, data)
    replace(path, key, value)
    try:
        section = reader(path).read()
    except InputError:
        return
    np.testing.assert_array_equal(section[:, "Gene3"].X.toarray().ravel(), COUNTS[:, 3])


def test_a_fault_of_ours_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, visium())
    monkeypatch.delattr(anndata.io, "read_elem")
    with pytest.raises(ImportError):
        reader(path).read()
    monkeypatch.undo()
    with pytest.raises(InputError, match="cannot be read"), reading(path, "a table"):
        raise TypeError("of a library")


# finding


def test_the_file_of_the_sections_name_comes_first(tmp_path: Path) -> None:
    for name in ("A1.h5ad", "B1.h5ad"):
        write(tmp_path, visium(), name)
    assert reader(tmp_path, "B1").path == tmp_path / "B1.h5ad"
    with pytest.raises(InputError, match="2 h5ad files in .*A1.h5ad, B1.h5ad"):
        find(SectionQuery(tmp_path, "C1"))


def test_the_only_file_of_the_sections_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "A1").mkdir()
    path = write(tmp_path / "A1", visium(), "adata.h5ad")
    assert reader(tmp_path).path == path


def test_a_folder_without_h5ad_is_of_another_layout(tmp_path: Path) -> None:
    text(tmp_path / "positions.csv")
    assert find(SectionQuery(tmp_path, "A1")) is None
    assert find(SectionQuery(tmp_path / "positions.csv", "A1")) is None
    assert find(SectionQuery(tmp_path / "nowhere", "A1")) is None


@pytest.mark.parametrize("name", ["A1.png", "A1_full_image.png", "adata.png", "slide.png"])
def test_the_image_beside_the_file_is_opened(tmp_path: Path, name: str) -> None:
    write(tmp_path, visium(), "adata.h5ad")
    write_image(tmp_path / name)
    write_image(tmp_path / "tissue_hires_image.png", 20, 25)
    assert reader(tmp_path).open_slide().shape == (250, 200)


def test_a_named_image_wins(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = write(tmp_path, visium())
    write_image(tmp_path / "A1.png")
    image = write_image(tmp_path / "images" / "scan.png", 30, 40)
    assert reader(path, image=image).open_slide().shape == (30, 40)


@pytest.mark.parametrize(
    ("images", "files", "message"),
    [
        ([], ["A1"], "no image of A1.h5ad.*thumbnails.*image=<file>"),
        (["tissue_hires_image"], ["A1"], "no image of A1.h5ad"),
        (["A1_a", "A1_b"], ["A1"], "2 images that may belong to A1.h5ad: A1_a.png, A1_b.png"),
        (["scan_1", "scan_2"], ["A1"], "2 images that may belong"),
        (["scan"], ["A1", "A10"], "no image of A1.h5ad"),
        (["A10"], ["A1", "A10"], "no image of A1.h5ad"),
    ],
)
def test_an_image_is_never_guessed(tmp_path: Path, images: list[str], files: list[str], message: str) -> None:
    for name in files:
        write(tmp_path, visium(), f"{name}.h5ad")
    for name in images:
        write_image(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=message):
        reader(tmp_path).open_slide()


def test_a_file_of_old_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, visium())
    with h5py.File(path, "a") as file:
        for group, names in (("obs", visium().obs_names), ("var", visium().var_names)):
            del file[group]
            rows = [(name.encode(), 1) for name in names]
            file[group] = np.array(rows, dtype=[("index", "S12"), ("in_tissue", "i8")])
    assert isinstance(anndata.read_h5ad(path), AnnData)
    section = reader(path).read()
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    assert list(section.obs_names) == list(visium().obs_names)

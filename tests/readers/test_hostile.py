"""Inputs that claim too much, never end, or run code are refused at once and by name; large sound ones are read."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf import limits
from spamcaf.errors import InputError
from spamcaf.readers import files
from spamcaf.readers.files import SectionQuery, SectionReader, require_parquet
from spamcaf.readers.find import find_reader
from spamcaf.readers.hdf5 import refuse_hostile_hdf5
from spamcaf.readers.labels import add_labels
from spamcaf.readers.reference import find_reference, read_reference
from spamcaf.readers.zarr_store import refuse_hostile_zarr
from spamcaf.slides.open import open_slide
from tests.fuzz import seeds

SECTION = seeds.SECTION
FACTORS, MATRIX = "A1/outs/spatial/scalefactors_json.json", "A1/outs/filtered_feature_bc_matrix.h5"
MTX, POSITIONS = "A1/outs/filtered_feature_bc_matrix/matrix.mtx.gz", "A1/outs/spatial/tissue_positions.csv"
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for kind in ("visium", "mtx", "visium_hd", "h5ad", "spatialdata", "legacy", "labels", "slide"):
        (folder / kind).mkdir()
        seeds.KINDS[kind][0](folder / kind)
    return folder


@pytest.fixture
def copy(bases: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(bases / kind, tmp_path / kind))


def reader(folder: Path) -> SectionReader:
    return find_reader(SectionQuery(folder, SECTION))


# kinds of files


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("replace", [pipe, device])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("visium", FACTORS),
        ("visium", MATRIX),
        ("visium", POSITIONS),
        ("mtx", MTX),
        ("h5ad", "A1.h5ad"),
        ("legacy", "ST-cnts/A1.tsv.gz"),
        ("spatialdata", "A1.zarr/zarr.json"),
        ("spatialdata", "A1.zarr/tables/table/X/data/c/0"),
        ("spatialdata", "A1.zarr/shapes/A1/shapes.parquet"),
        ("labels", "labels.csv"),
    ],
)
def test_what_is_no_file_is_refused_by_its_kind(
    copy: Callable[[str], Path], kind: str, place: str, replace: Edit
) -> None:
    folder = copy(kind)
    replace(folder / place)
    with pytest.raises(InputError):
        seeds.KINDS[kind][1](folder)


@pytest.mark.parametrize(("replace", "what"), [(pipe, "a pipe"), (device, "a device")])
def test_what_is_called_h5ad_and_is_no_file_is_named_by_its_kind(
    copy: Callable[[str], Path], replace: Edit, what: str
) -> None:
    folder = copy("h5ad")
    replace(folder / "A1.h5ad")
    with pytest.raises(InputError, match=rf"A1\.h5ad, which is {what}"):
        reader(folder)


def test_an_image_and_a_reference_must_be_files(tmp_path: Path) -> None:
    for name in ("a.tif", "atlas.h5", "atlas.h5ad", "atlas.csv", "atlas.tsv.gz"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="which is a pipe"):
            (open_slide if name == "a.tif" else read_reference)(tmp_path / name)
    with pytest.raises(InputError, match="which is a folder"):
        open_slide(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(InputError, match="which is a socket"):
            limits.require_regular(tmp_path / "s")
    with pytest.raises(InputError, match="which is a device"):
        limits.require_regular(Path("/dev/null"))


def test_a_dead_link_and_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "atlas.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"atlas\.csv cannot be read"):
        read_reference(tmp_path / "atlas.csv")
    for name in ("a" * 300, "\x00", "*", "...", "%41"):
        with pytest.raises(InputError, match="no reference"):
            find_reference(name, tmp_path, tmp_path, tmp_path)


# packed files and text


def bomb(path: Path, n_bytes: int = 2**29) -> None:
    block = gzip.compress(b"\n" * 2**24)
    path.write_bytes(gzip.compress(b"\tg\n") + block * (n_bytes // 2**24))


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("mtx", "A1/outs/filtered_feature_bc_matrix/features.tsv.gz"),
        ("mtx", MTX),
        ("legacy", "ST-cnts/A1.tsv.gz"),
        ("visium", FACTORS),
    ],
)
def test_a_file_that_unpacks_without_end_is_refused(
    copy: Callable[[str], Path], kind: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FREE_TEXT_BYTES", 2**20)
    folder = copy(kind)
    bomb(folder / place)
    with pytest.raises(InputError, match=Path(place).name.split(".")[0]):
        reader(folder).read()


def test_sparse_counts_that_pack_very_well_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One count among 2000 zeros, gzipped: about 200 times smaller."""
    monkeypatch.setattr(limits, "FREE_TEXT_BYTES", 2**10)
    counts = (np.random.default_rng(0).random((200, 4000)) < 5e-4).astype(int)
    counts[:, 0] = 1
    table = pd.DataFrame(counts, index=[f"c{i}" for i in range(200)], columns=[f"g{i}" for i in range(4000)])
    content = table.to_csv(sep="\t").encode()
    (tmp_path / "atlas.tsv.gz").write_bytes(gzip.compress(content))
    assert len(content) > limits.TEXT_RATIO * (tmp_path / "atlas.tsv.gz").stat().st_size
    np.testing.assert_array_equal(read_reference(tmp_path / "atlas.tsv.gz").X.toarray(), counts)


def change_mtx(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = gzip.decompress((folder / MTX).read_bytes()).decode().splitlines()
    (folder / MTX).write_bytes(gzip.compress(("\n".join(change(lines)) + "\n").encode()))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("12 24 9000000000", "it states 9000000000 entries in"),
        ("9000000000 9000000000 100", "values for 24 spots and 12 genes"),
        ("12 24", "it does not state its size"),
        ("12 24 many", "it does not state its size"),
    ],
)
def test_an_mtx_that_states_more_than_it_holds(copy: Callable[[str], Path], size: str, message: str) -> None:
    folder = copy("mtx")
    change_mtx(folder, lambda lines: [*[x for x in lines if x[0] == "%"], size, *[x for x in lines if x[0] != "%"][1:]])
    with pytest.raises(InputError, match=message):
        reader(folder).read()


@pytest.mark.parametrize("entry", ["1 1 " + "9" * 40, f"{2**40} {2**62} 1", "1 1 1e400"])
def test_an_mtx_value_out_of_range(copy: Callable[[str], Path], entry: str) -> None:
    folder = copy("mtx")
    change_mtx(folder, lambda lines: [*lines[:-1], entry])
    with pytest.raises(InputError, match="filtered_feature_bc_matrix"):
        reader(folder).read()


def wide(mark: str, n_columns: int = 10**6) -> str:
    return mark.join(["barcode", *["g"] * (n_columns - 1)]) + "\n" + mark.join(["1"] * n_columns) + "\n"


def test_tables_of_a_million_columns(copy: Callable[[str], Path]) -> None:
    message = "1000000 columns in the first line"
    visium, legacy, labels = copy("visium"), copy("legacy"), copy("labels")
    (visium / POSITIONS).write_text(wide(","))
    (legacy / "ST-cnts/A1.tsv.gz").write_bytes(gzip.compress(wide("\t").encode()))
    (labels / "labels.csv").write_text(wide(","))
    for folder in (visium, legacy):
        with pytest.raises(InputError, match=message):
            reader(folder).read()
    with pytest.raises(InputError, match=message):
        add_labels(AnnData(np.ones((1, 1))), labels / "labels.csv", SECTION)


def test_millions_of_lines_without_columns(copy: Callable[[str], Path]) -> None:
    folder = copy("visium")
    with (folder / POSITIONS).open("a") as file:
        file.write("0\n" * 4_000_000)
    with pytest.raises(InputError, match="4000025 lines without columns"):
        reader(folder).read()


@pytest.mark.parametrize("text", ['{"a":' * 100_000, "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_scale_factors_nested_too_deep(copy: Callable[[str], Path], text: str) -> None:
    folder = copy("visium")
    (folder / FACTORS).write_text(text)
    with pytest.raises(InputError, match="scalefactors_json.json cannot be read"):
        reader(folder).read()


def parquet_of(path: Path, table: Any, times: int = 1) -> Path:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(times):
            writer.write_table(table)
    return path


def test_parquet_that_declares_too_much(tmp_path: Path) -> None:
    import pyarrow as pa

    same = pa.table({"barcode": pa.array(["x"] * 10**6), "in_tissue": np.zeros(10**6, np.int8)})
    long = parquet_of(tmp_path / "long.parquet", same, times=20)
    with pytest.raises(ValueError, match="20000000 rows and 2 columns"):
        require_parquet(long.read_bytes(), long)
    broad = parquet_of(tmp_path / "wide.parquet", pa.table({str(i): [0] for i in range(3000)}))
    with pytest.raises(ValueError, match="1 rows and 3000 columns"):
        require_parquet(broad.read_bytes(), broad)
    with pytest.raises(ValueError, match="its description alone takes 4294967295 bytes"):
        require_parquet(b"PAR1" + b"\xff" * 4 + b"PAR1", broad)


def test_positions_of_a_visium_hd_array_are_plausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As parquet packs them best."""
    import pyarrow as pa

    monkeypatch.setattr(files, "FREE_ROWS", 1000)
    row, column = np.divmod(np.arange(300_000, dtype=np.int32), 2000)
    names = np.char.add(np.char.mod("s_002um_%05d_", row), np.char.mod("%05d-1", column))
    table = pa.table({"barcode": names, "in_tissue": np.ones(len(row), np.int8), "array_row": row, "array_col": column})
    path = parquet_of(tmp_path / "tissue_positions.parquet", table)
    require_parquet(path.read_bytes(), path)


# HDF5


def doubled_hard_links(file: h5py.File) -> None:
    group = file["uns"].create_group("more")
    for _ in range(30):
        below = group.create_group("a")
        group["b"] = below
        group = below


def deep_groups(file: h5py.File) -> None:
    file.create_group("/".join(["uns", *["a"] * 200]))


def huge_column(file: h5py.File) -> None:
    del file["obs/array_row"]
    file.create_dataset("obs/array_row", shape=(10**12,), dtype="i8", chunks=(2**16,), compression="gzip")


def huge_matrix(file: h5py.File) -> None:
    del file["X"], file["layers"], file["raw"]
    file.create_dataset("X", shape=(10**9, 10**3), dtype="f4", chunks=(1, 10**3))


def empty_rows(file: h5py.File) -> None:
    del file["X"], file["layers"], file["raw"]
    file.create_dataset("X", shape=(10**12, 0), dtype="f4", chunks=(1, 1), maxshape=(None, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (doubled_hard_links, "'uns/more/b' is a second name of another group"),
        (deep_groups, "nested 64 levels deep"),
        (huge_column, "'obs/array_row' declares 7450.6 GiB and stores 0 bytes"),
        (huge_matrix, "'X' declares"),
        (empty_rows, "values for 24 spots and 12 genes"),
    ],
)
def test_an_h5ad_that_claims_too_much(
    copy: Callable[[str], Path], change: Callable[[h5py.File], None], message: str
) -> None:
    folder = copy("h5ad")
    with h5py.File(folder / "A1.h5ad", "a") as file:
        change(file)
    with pytest.raises(InputError, match=message):
        reader(folder).read()


@pytest.mark.parametrize("part", ["data", "indices", "barcodes", "features/id"])
def test_a_10x_matrix_that_claims_too_much(copy: Callable[[str], Path], part: str) -> None:
    folder = copy("visium")
    with h5py.File(folder / MATRIX, "a") as file:
        kind = file[f"matrix/{part}"].dtype
        del file[f"matrix/{part}"]
        file.create_dataset(f"matrix/{part}", shape=(3 * 10**9,), dtype=kind, chunks=(2**16,), compression="gzip")
    with pytest.raises(InputError, match=f"'matrix/{part}' declares"):
        reader(folder).read()


def test_content_larger_than_the_memory_is_refused(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file honestly holds, too: the kernel would end the process without a word."""
    for kind in ("visium", "h5ad", "spatialdata", "visium_hd"):
        folder = copy(kind)
        found = reader(folder)
        with monkeypatch.context() as patch:
            patch.setattr(limits, "available_bytes", lambda: 64)
            with pytest.raises(InputError, match=r"GiB are available|unpacks to more than"):
                found.read()
        found.read()


def test_chunks_of_zeros_packed_a_thousand_times_smaller_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 2**20)
    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        file.create_dataset("x", data=np.zeros(2**25, np.int8), chunks=(2**22,), compression="gzip")
        assert 900 * file["x"].id.get_storage_size() < file["x"].size
    refuse_hostile_hdf5(tmp_path / "zeros.h5")
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.create_dataset("x", shape=(2**25,), dtype="i1", chunks=(2**22,), compression="gzip")
    with pytest.raises(ValueError, match="'x' declares"):
        refuse_hostile_hdf5(tmp_path / "none.h5")


def test_a_reference_of_other_files_is_refused(tmp_path: Path) -> None:
    AnnData(csr_matrix(seeds.COUNTS)).write_h5ad(tmp_path / "atlas.h5ad")
    with h5py.File(tmp_path / "atlas.h5ad", "a") as file:
        file["uns/x"] = h5py.ExternalLink("/etc/hosts", "/")
    with pytest.raises(InputError, match="may lead to another file"):
        read_reference(tmp_path / "atlas.h5ad")


# Zarr


class Payload:
    """What a pickle may do when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["SPAMCAF_TEST_MARK"],)


V2 = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C"}
PICKLE = {"id": "pickle", "protocol": 5}
ARRAY = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [1],
    "data_type": "uint8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
}
PICKLE_3 = {"name": "numcodecs.pickle", "configuration": {}}
SHARDS = {"name": "sharding_indexed", "configuration": {"codecs": ["bytes"], "index_codecs": [PICKLE_3]}}
HIDDEN: dict[str, tuple[str, Any]] = {
    "filter": (".zarray", {**V2, "filters": [PICKLE], "compressor": None}),
    "compressor": (".zarray", {**V2, "filters": None, "compressor": PICKLE}),
    "without a shape": (".zarray", {"filters": [PICKLE]}),
    "version 3": ("zarr.json", {**ARRAY, "codecs": [PICKLE_3]}),
    "by name": ("zarr.json", {**ARRAY, "codecs": ["numcodecs.pickle"]}),
    "in shards": ("zarr.json", {**ARRAY, "codecs": [SHARDS]}),
    "consolidated 2": (".zmetadata", {"metadata": {"evil/.zarray": {**V2, "filters": [PICKLE]}}}),
    "consolidated 3": (
        "zarr.json",
        {
            "zarr_format": 3,
            "node_type": "group",
            "consolidated_metadata": {"metadata": {"evil": {**ARRAY, "codecs": [PICKLE_3]}}},
        },
    ),
}


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("where", HIDDEN)
def test_pickles_in_a_store_are_never_loaded(
    copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, escape: bool
) -> None:
    monkeypatch.setenv("SPAMCAF_TEST_MARK", str(tmp_path / "ran"))
    folder, (name, record) = copy("spatialdata"), HIDDEN[where]
    place = folder / "A1.zarr/tables/table/obsm/evil"
    place.mkdir()
    text = json.dumps(record)
    (place / name).write_text(text.replace("pickle", "p\\u0069ckle") if escape else text)
    for chunk in ("0", "c/0"):
        (place / chunk).parent.mkdir(exist_ok=True)
        (place / chunk).write_bytes(pickle.dumps(np.array([Payload()], object)))
    with pytest.raises(InputError, match="pickle', which may run code"):
        reader(folder).read()
    assert not (tmp_path / "ran").exists()


def set_description(folder: Path, place: str, **changes: Any) -> None:
    path = folder / "A1.zarr" / place / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: set_description(f, "tables/table/obs/array_row", shape=[10**10]), "declares"),
        (
            lambda f: set_description(f, "images/A1_full_image/s0", shape=[3, 10**7, 10**7]),
            "declares 6103515625 chunks",
        ),
        (lambda f: set_description(f, "images/A1_full_image/s0", shape=[3, -1, 10]), "a shape of"),
        (lambda f: set_description(f, "images/A1_full_image/s0", shape="x"), "a shape of x"),
        (lambda f: set_description(f, "tables/table/obs/array_row", storage_transformers=[1]), "by a transformer"),
        (lambda f: (f / "A1.zarr/tables/table/zarr.json").write_text("[" * 100_000), "nested too deeply"),
        (lambda f: (f / "A1.zarr/tables/table/zarr.json").write_text("3"), "describes no array and no group"),
    ],
)
def test_a_store_that_claims_too_much(copy: Callable[[str], Path], change: Edit, message: str) -> None:
    folder = copy("spatialdata")
    change(folder)
    with pytest.raises(InputError, match=message):
        reader(folder).read()


def test_links_out_of_a_store_are_refused(copy: Callable[[str], Path], tmp_path: Path) -> None:
    """A folder that is a link is not walked into, so that it could hold anything."""
    folder = copy("spatialdata")
    place = folder / "A1.zarr/tables/table/obs"
    shutil.move(place, tmp_path / "away")
    place.symlink_to(tmp_path / "away")
    with pytest.raises(InputError, match=r"is a link out of the store: .*cp -rL"):
        reader(folder).read()


def test_stores_of_every_codec_that_numpy_arrays_need_are_read(tmp_path: Path) -> None:
    import zarr
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    for i, codec in enumerate((BloscCodec(), GzipCodec(), ZstdCodec())):
        zarr.create_array(tmp_path / f"{i}", shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="f4", compressors=codec)
    zarr.create_array(tmp_path / "old", shape=(8,), chunks=(2,), dtype="i4", zarr_format=2)
    zarr.create_array(tmp_path / "text", shape=(8,), chunks=(2,), dtype=str)
    refuse_hostile_zarr(tmp_path, in_memory=("0", "old", "text"))


# images


def test_an_image_that_declares_more_pixels_than_it_can_hold(copy: Callable[[str], Path]) -> None:
    path = copy("slide") / "a.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png cannot be read \(it declares 10800000000 bytes of pixels"):
        open_slide(path)


def test_images_of_one_colour_are_read(tmp_path: Path) -> None:
    """They pack best: 1000 times as PNG, 2000 times as progressive JPEG."""
    from PIL import Image

    white = Image.new("RGB", (3000, 3000), "white")
    white.save(tmp_path / "a.png", optimize=True)
    white.save(tmp_path / "a.jpg", quality=10, progressive=True, optimize=True)
    for name in ("a.png", "a.jpg"):
        assert open_slide(tmp_path / name).shape == (3000, 3000)

"""Every layout of a Visium section that Space Ranger wrote reads the same; every defect is named."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, Position
from spamcaf.readers import visium as space_ranger
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.visium import read_scalefactors
from spamcaf.readers.visium_files import Sample

SPOTS, GENES, PITCH_PX = 24, 6, 137.5
SPOT_PX = 65 / (100 / PITCH_PX)
SYMBOLS = ["A", "B", "NA", "B", "B", "CD3"]
IDS = [f"ENSG{i}" for i in range(GENES)]
KINDS = ["Gene Expression"] * (GENES - 1) + ["Antibody Capture"]
BARCODES = [f"{''.join('ACGT'[(i >> 2 * k) % 4] for k in range(8))}-1" for i in range(SPOTS)]
COUNTS = np.random.default_rng(0).poisson(2.0, (SPOTS, GENES))
COUNTS[:, 0] += 1


def positions() -> pd.DataFrame:
    """One spot more than in the matrix, in another order, and one off the tissue."""
    row, column = np.divmod(np.arange(SPOTS + 1), 6)
    table = pd.DataFrame(
        {
            Position.BARCODE: [*BARCODES, "TTTTTTTT-1"],
            Position.IN_TISSUE: (np.arange(SPOTS + 1) != 3).astype(int),
            Position.ARRAY_ROW: row,
            Position.ARRAY_COL: 2 * column + row % 2,
            Position.PXL_ROW: 700 + row * PITCH_PX * np.sqrt(3) / 2,
            Position.PXL_COL: 300 + (2 * column + row % 2) * PITCH_PX / 2,
        }
    )
    return table.iloc[::-1]


def write_h5(path: Path, counts: np.ndarray = COUNTS, barcodes: list[str] = BARCODES) -> None:
    by_spot = csr_matrix(counts)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array(barcodes, "S")
        matrix["data"] = by_spot.data.astype(np.int32 if counts.dtype.kind == "i" else np.float32)
        matrix["indices"], matrix["indptr"] = by_spot.indices, by_spot.indptr
        matrix["shape"] = np.array([counts.shape[1], counts.shape[0]], np.int32)
        features = matrix.create_group("features")
        for name, values in (("id", IDS), ("name", SYMBOLS), ("feature_type", KINDS), ("genome", ["G"] * GENES)):
            features[name] = np.array(values, "S")


def write_mtx(folder: Path, zipped: bool, columns: int) -> None:
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", csr_matrix(COUNTS.T), field="integer")
    rows = [(IDS, SYMBOLS, KINDS)[i] for i in range(columns)]
    names = "features.tsv" if columns > 2 else "genes.tsv"
    (folder / names).write_text("\n".join("\t".join(row) for row in zip(*rows, strict=True)) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(BARCODES) + "\n")
    for path in list(folder.iterdir()) if zipped else []:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def write_positions(outs: Path, name: str = "tissue_positions.csv", header: bool = True, **changes: object) -> None:
    positions().assign(**changes).to_csv(outs / "spatial" / name, header=header, index=False)


def only_mtx(outs: Path, zipped: bool, columns: int) -> None:
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    write_mtx(outs / "filtered_feature_bc_matrix", zipped, columns)


def other_positions(outs: Path, name: str, header: bool) -> None:
    (outs / "spatial/tissue_positions.csv").unlink()
    write_positions(outs, name, header)


def edit_h5(outs: Path, edit: Callable[[h5py.File], object]) -> None:
    with h5py.File(outs / "filtered_feature_bc_matrix.h5", "r+") as file:
        edit(file)


def recast(file: h5py.File, name: str, kind: type) -> None:
    values = file[f"matrix/{name}"][:].astype(kind)
    del file[f"matrix/{name}"]
    file[f"matrix/{name}"] = values


def change(outs: Path, name: str, place: object, value: object) -> None:
    edit_h5(outs, lambda file: file[f"matrix/{name}"].__setitem__(place, value))


def edit_scalefactors(outs: Path, **changes: object) -> None:
    path = outs / "spatial/scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    folder = tmp_path / "S1" / "outs"
    (folder / "spatial").mkdir(parents=True)
    write_h5(folder / "filtered_feature_bc_matrix.h5")
    write_positions(folder)
    factors = {"spot_diameter_fullres": SPOT_PX, "tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors | {"fiducial_diameter_fullres": 180.0}))
    image = np.full((90, 120, 3), (200, 120, 160), np.uint8)
    for name in ("hires", "lowres"):
        Image.fromarray(image).save(folder / f"spatial/tissue_{name}_image.png")
    return folder


def read(outs: Path, section: str = "S1") -> AnnData:
    reader = space_ranger.find(SectionQuery(outs.parents[1], section))
    assert reader is not None
    assert reader.kind == "Space Ranger"
    return reader.read()


Edit = Callable[[Path], object]
# fmt: off
VARIANTS: dict[str, Edit] = {
    "as version 2 and later writes it": lambda outs: None,
    "prefix": lambda o: (o / "filtered_feature_bc_matrix.h5").rename(o / "S1_filtered_feature_bc_matrix.h5"),
    "foreign prefix": lambda o: (o / "filtered_feature_bc_matrix.h5").rename(o / "V1_filtered_feature_bc_matrix.h5"),
    "own prefix beside another": lambda o: (
        write_h5(o / "S10_filtered_feature_bc_matrix.h5", COUNTS * 2),
        (o / "filtered_feature_bc_matrix.h5").rename(o / "S1_filtered_feature_bc_matrix.h5"),
    ),
    "mtx gz": lambda o: only_mtx(o, zipped=True, columns=3),
    "mtx plain": lambda o: only_mtx(o, zipped=False, columns=3),
    "h5 beside mtx": lambda o: write_mtx(o / "filtered_feature_bc_matrix", zipped=True, columns=3),
    "version 1, no header": lambda o: other_positions(o, "tissue_positions_list.csv", header=False),
    "old name with header": lambda o: other_positions(o, "tissue_positions_list.csv", header=True),
    "new name without header": lambda o: other_positions(o, "tissue_positions.csv", header=False),
    "DLPFC's text file": lambda o: other_positions(o, "tissue_positions_list.txt", header=False),
    "both, equal": lambda o: write_positions(o, "tissue_positions_list.csv", header=False),
    "parquet alone": lambda o: (
        (o / "spatial/tissue_positions.csv").unlink(),
        positions().to_parquet(o / "spatial/tissue_positions.parquet"),
    ),
    "parquet beside text": lambda o: positions().to_parquet(o / "spatial/tissue_positions.parquet"),
    "positions gz": lambda o: (
        write_positions(o, "tissue_positions.csv.gz"), (o / "spatial/tissue_positions.csv").unlink()
    ),
    "columns in another order": lambda o: positions().iloc[:, [0, 1, 3, 2, 5, 4]].to_csv(
        o / "spatial/tissue_positions.csv", index=False
    ),
    "library ids": lambda o: edit_h5(o, lambda file: file.attrs.update(library_ids=np.array(["other"], "S"))),
    "no genome": lambda o: edit_h5(o, lambda file: file.pop("matrix/features/genome")),
    "counts as int64": lambda o: edit_h5(o, lambda file: recast(file, "data", np.int64)),
    "whole numbers as floats": lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", COUNTS * 1.0),
    "raw matrix beside it": lambda o: write_h5(o / "raw_feature_bc_matrix.h5", COUNTS * 2),
    "twins of macOS": lambda o: [
        (o / name).write_bytes(b"\0\5")
        for name in ("._filtered_feature_bc_matrix.h5", "spatial/._tissue_positions.csv")
    ],
    "mtx with prefix": lambda o: (
        only_mtx(o, zipped=True, columns=3),
        (o / "filtered_feature_bc_matrix").rename(o / "S1_filtered_feature_bc_matrix"),
    ),
    "analysis folders beside it": lambda o: [(o / name).mkdir() for name in ("analysis", "filtered_feature")],
    "byte order mark": lambda o: (o / "spatial/tissue_positions.csv").write_bytes(
        b"\xef\xbb\xbf" + (o / "spatial/tissue_positions.csv").read_bytes()
    ),
    "floats written for indices": lambda o: write_positions(o, array_row=positions()["array_row"].map("{:.1f}".format)),
    "semicolons": lambda o: positions().to_csv(o / "spatial/tissue_positions.csv", index=False, sep=";"),
    "flat": lambda o: ([p.rename(o / p.name) for p in list((o / "spatial").iterdir())], (o / "spatial").rmdir()),
}
# fmt: on


@pytest.mark.parametrize("edit", VARIANTS.values(), ids=VARIANTS)
def test_every_layout_gives_the_same_section(outs: Path, edit: Edit) -> None:
    edit(outs)
    section = read(outs)
    where = positions().set_index(Position.BARCODE).loc[BARCODES]
    assert section.obs_names.tolist() == BARCODES
    assert section.var_names.tolist() == ["A", "B", "NA", "B_ENSG3", "B_ENSG4"]
    assert section.var[GENE_IDS].tolist() == IDS[:-1]
    assert section.X.dtype == np.int32
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[:, :-1])
    np.testing.assert_allclose(section.obsm[SPATIAL], where[[Position.PXL_COL, Position.PXL_ROW]], rtol=1e-12)
    assert section.obsm[SPATIAL].dtype == np.float64
    for column in (Position.IN_TISSUE, Position.ARRAY_ROW, Position.ARRAY_COL):
        assert section.obs[column].dtype == np.int64
        assert section.obs[column].tolist() == where[column].tolist()


def test_feature_table_of_two_columns_keeps_all(outs: Path) -> None:
    only_mtx(outs, zipped=False, columns=2)
    assert read(outs).var_names.tolist() == ["A", "B", "NA", "B_ENSG3", "B_ENSG4", "CD3"]


def test_facts_and_thumbnails(outs: Path) -> None:
    section = read(outs)
    expected = {"name": "S1", "lattice": "hexagonal", "pitch_um": 100.0, "spot_diameter_um": 55.0, "n_unmatched": 0}
    facts = dict(section.uns[SECTION_METADATA])
    assert facts.pop("off_tissue_px").shape == (0, 2), "the only spot off the tissue is a row of the section"
    assert facts == expected | {"spot_diameter_px": SPOT_PX, "fiducial_diameter_px": 180.0}
    record = section.uns[SPATIAL]["S1"]
    assert record["scalefactors"]["spot_diameter_fullres"] == SPOT_PX
    assert record["images"]["hires"].shape == (90, 120, 3)
    assert record["images"]["lowres"][0, 0].tolist() == [200, 120, 160]


def test_spots_off_the_tissue_that_the_matrix_leaves_out_are_a_fact(outs: Path) -> None:
    table = positions()
    table.loc[table[Position.BARCODE] == "TTTTTTTT-1", Position.IN_TISSUE] = 0
    table.to_csv(outs / "spatial/tissue_positions.csv", index=False)
    absent = table[table[Position.BARCODE] == "TTTTTTTT-1"][[Position.PXL_COL, Position.PXL_ROW]]
    np.testing.assert_allclose(read(outs).uns[SECTION_METADATA]["off_tissue_px"], absent)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_folder_may_be_named_at_any_depth(outs: Path, depth: int) -> None:
    root = [outs, *outs.parents][depth]
    reader = space_ranger.find(SectionQuery(root, "S1"))
    assert reader is not None
    assert reader.path == outs


def test_barcodes_without_position_are_counted_and_dropped(outs: Path) -> None:
    kept = positions().set_index(Position.BARCODE).drop(BARCODES[:3]).reset_index()
    kept.to_csv(outs / "spatial/tissue_positions.csv", index=False)
    section = read(outs)
    assert section.uns[SECTION_METADATA]["n_unmatched"] == 3
    assert section.obs_names.tolist() == BARCODES[3:]
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[3:, :-1])


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\nx")])
def test_missing_or_damaged_thumbnail_only_warns(outs: Path, damage: Edit, caplog: pytest.LogCaptureFixture) -> None:
    damage(outs / "spatial/tissue_hires_image.png")
    with caplog.at_level(logging.WARNING):
        section = read(outs)
    assert list(section.uns[SPATIAL]["S1"]["images"]) == ["lowres"]
    assert "tissue_hires_image.png" in caplog.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20:40] = b"\xff" * 20
    path.write_bytes(content)


def without_suffix(outs: Path) -> None:
    write_positions(outs, barcode=positions()[Position.BARCODE].str.removesuffix("-1"))


def foreign(outs: Path) -> None:
    write_positions(outs, barcode="X" + positions()[Position.BARCODE])


DEFECTS: dict[str, tuple[Edit, str]] = {
    "truncated h5": (lambda o: truncate(o / "filtered_feature_bc_matrix.h5"), "cannot be read"),
    "h5 of something else": (
        lambda o: h5py.File(o / "filtered_feature_bc_matrix.h5", "w").close(), "no matrix/barcodes",
    ),
    "no matrix": (lambda o: (o / "filtered_feature_bc_matrix.h5").unlink(), "0 filtered count matrices.*spatial/"),
    "several matrices": (
        lambda o: (
            write_h5(o / "P_filtered_feature_bc_matrix.h5"),
            write_h5(o / "Q_filtered_feature_bc_matrix.h5"),
            (o / "filtered_feature_bc_matrix.h5").unlink(),
        ),
        "2 filtered count matrices.*P_filtered.*Q_filtered",
    ),
    "fractional": (lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", COUNTS + 0.5), "fractional"),
    "duplicate barcode": (
        lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", barcodes=[*BARCODES[:-1], BARCODES[0]]), "twice",
    ),
    "mtx folder without barcodes": (
        lambda o: (only_mtx(o, True, 3), (o / "filtered_feature_bc_matrix/barcodes.tsv.gz").unlink()),
        "no barcodes.tsv",
    ),
    "no scale factors": (
        lambda o: (o / "spatial/scalefactors_json.json").unlink(), "no scalefactors_json.json.*tissue_positions.csv",
    ),
    "scale factors not JSON": (
        lambda o: (o / "spatial/scalefactors_json.json").write_text("{"), "scalefactors_json.json cannot be read",
    ),
    "scale factor text": (
        lambda o: edit_scalefactors(o, spot_diameter_fullres="wide"),
        "spot_diameter_fullres = 'wide' in .*scalefactors_json.json",
    ),
    "bins under Visium's names": (
        lambda o: (
            edit_scalefactors(o, bin_size_um=8.0),
            (o / "spatial/scalefactors_json.json").rename(o / "spatial/S1_scalefactors_json.json"),
        ),
        "bins of 8 um of Visium HD .*square_008um",
    ),
    "no positions": (lambda o: (o / "spatial/tissue_positions.csv").unlink(), "no position file.*scalefactors_json"),
    "positions disagree": (
        lambda o: write_positions(
            o, "tissue_positions_list.csv", pxl_row_in_fullres=positions()["pxl_row_in_fullres"] + np.eye(SPOTS + 1)[2]
        ),
        "tissue_positions.csv and tissue_positions_list.csv .* disagree",
    ),
    "text for a coordinate": (lambda o: write_positions(o, pxl_row_in_fullres="12,5"), "'12,5' as pxl_row"),
    "empty coordinate": (lambda o: write_positions(o, pxl_col_in_fullres=np.nan), "'nan' as pxl_col"),
    "infinite coordinate": (lambda o: write_positions(o, pxl_col_in_fullres=np.inf), "'inf' as pxl_col"),
    "fractional index": (lambda o: write_positions(o, array_row=0.5), "'0.5' as array_row"),
    "in_tissue 2": (lambda o: write_positions(o, in_tissue=2), "'2' as in_tissue"),
    "column missing": (
        lambda o: positions().drop(columns="array_row").to_csv(o / "spatial/tissue_positions.csv", index=False),
        "also array_row",
    ),
    "five columns, no header": (
        lambda o: positions().iloc[:, :5].to_csv(o / "spatial/tissue_positions.csv", index=False, header=False),
        "5 columns without a header",
    ),
    "duplicate position": (
        lambda o: pd.concat([positions(), positions()[:1]]).to_csv(o / "spatial/tissue_positions.csv", index=False),
        "twice",
    ),
    "empty positions": (lambda o: (o / "spatial/tissue_positions.csv").write_text(""), "cannot be read"),
    "barcodes lack -1": (without_suffix, "lack the '-1'.*They agree without it"),
    "barcodes of another section": (foreign, "If not, they are of two sections"),
    "negative": (lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", COUNTS - 2), "negative"),
    "nothing counted": (lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", COUNTS * 0), "no gene expression"),
    "no spots": (lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", COUNTS[:0], []), "no gene expression"),
    "missing values": (
        lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", np.where(COUNTS > 3, np.nan, COUNTS)), "missing",
    ),
    "gene that is not there": (lambda o: change(o, "indices", 4, 1_000_000), "cannot be read .indices must be < 6"),
    "negative index": (lambda o: change(o, "indices", 0, -7), "cannot be read .indices must be >= 0"),
    "columns end nowhere": (lambda o: change(o, "indptr", -1, 10**6), "cannot be read .its last spot does not end at"),
    "values after the last column": (lambda o: change(o, "indptr", -1, 3), "its last spot does not end"),
    "columns run backwards": (lambda o: change(o, "indptr", 2, 0), "cannot be read .indptr must be a non-decreasing"),
    "shape of another matrix": (
        lambda o: change(o, "shape", 1, SPOTS + 5), "cannot be read .index pointer size 25 should be 30",
    ),
    "gene id twice": (lambda o: change(o, "features/id", 1, b"ENSG0"), "gene ENSG0 twice"),
    "content of another file": (
        lambda o: edit_h5(
            o, lambda f: (f["matrix"].pop("data"), f["matrix"].update(data=h5py.ExternalLink("/etc/hosts", "x")))
        ),
        "another file",
    ),
    "only the raw matrix": (
        lambda o: (o / "filtered_feature_bc_matrix.h5").rename(o / "raw_feature_bc_matrix.h5"),
        "copy the filtered one",
    ),
    "packed matrix": (
        lambda o: (o / "filtered_feature_bc_matrix.h5").rename(o / "filtered_feature_bc_matrix.tar.gz"),
        "unpack it",
    ),
    "truncated mtx gz": (
        lambda o: (only_mtx(o, True, 3), truncate(o / "filtered_feature_bc_matrix/matrix.mtx.gz")), "cannot be read",
    ),
    "corrupt gz of barcodes": (
        lambda o: (only_mtx(o, True, 3), corrupt(o / "filtered_feature_bc_matrix/barcodes.tsv.gz")), "cannot be read",
    ),
    "barcodes fewer than columns": (
        lambda o: (
            only_mtx(o, False, 3), (o / "filtered_feature_bc_matrix/barcodes.tsv").write_text("AAAAAAAA-1\n"),
        ),
        "cannot be read",
    ),
    "features of one column": (lambda o: only_mtx(o, False, 1), "a feature table of one column"),
    "truncated parquet": (
        lambda o: (
            (o / "spatial/tissue_positions.csv").unlink(),
            positions().to_parquet(o / "spatial/tissue_positions.parquet"),
            truncate(o / "spatial/tissue_positions.parquet"),
        ),
        "tissue_positions.parquet cannot be read",
    ),
    "truncated gz of positions": (
        lambda o: (
            (o / "spatial/tissue_positions.csv").unlink(),
            write_positions(o, "tissue_positions.csv.gz"),
            truncate(o / "spatial/tissue_positions.csv.gz"),
        ),
        "tissue_positions.csv.gz cannot be read",
    ),
    "parquet disagrees": (
        lambda o: positions().assign(array_row=7).to_parquet(o / "spatial/tissue_positions.parquet"),
        "tissue_positions.csv and tissue_positions.parquet .* disagree",
    ),
    "header alone": (
        lambda o: positions()[:0].to_csv(o / "spatial/tissue_positions.csv", index=False), "no positions in",
    ),
    "binary positions": (
        lambda o: (o / "spatial/tissue_positions.csv").write_bytes(b"\x89PNG\xff\xfe\0\0"), "tissue_positions.csv",
    ),
    "scale factors of a list": (
        lambda o: (o / "spatial/scalefactors_json.json").write_text("[1, 2]"),
        "scalefactors_json.json cannot be read .it holds no numbers by name",
    ),
    "scale factor NaN": (
        lambda o: edit_scalefactors(o, spot_diameter_fullres=float("nan")), "spot_diameter_fullres = nan .*above 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_is_named(outs: Path, edit: Edit, message: str) -> None:
    edit(outs)
    with pytest.raises(InputError) as caught:
        read(outs)
    assert re.fullmatch(f"Found: .*{message}.*", str(caught.value), re.DOTALL), caught.value


@pytest.mark.parametrize("part", ["binned_outputs/square_016um", "segmented_outputs", "feature_slice.h5"])
def test_visium_hd_is_left_to_its_own_reader(outs: Path, part: str) -> None:
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    (outs / part).mkdir(parents=True)
    assert space_ranger.find(SectionQuery(outs.parents[1], "S1")) is None


def test_bins_of_visium_hd_are_known_by_their_scale_factors(outs: Path) -> None:
    edit_scalefactors(outs, bin_size_um=8.0)
    assert space_ranger.find(SectionQuery(outs.parents[1], "S1")) is None


def test_a_section_that_is_not_there_is_none(outs: Path) -> None:
    assert space_ranger.find(SectionQuery(outs.parents[1], "S2")) is None
    assert space_ranger.find(SectionQuery(outs / "filtered_feature_bc_matrix.h5", "S1")) is None


def test_a_thumbnail_of_unknown_scale_is_left_out(outs: Path, caplog: pytest.LogCaptureFixture) -> None:
    factors = {"spot_diameter_fullres": SPOT_PX, "tissue_lowres_scalef": 0.03}
    (outs / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    with caplog.at_level(logging.WARNING):
        assert list(read(outs).uns[SPATIAL]["S1"]["images"]) == ["lowres"]
    assert "tissue_hires_scalef" in caplog.text


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spots=st.permutations(range(SPOTS)), rows=st.permutations(range(SPOTS + 1)))
def test_order_of_rows_does_not_matter(outs: Path, spots: list[int], rows: list[int]) -> None:
    write_h5(outs / "filtered_feature_bc_matrix.h5")
    write_positions(outs)
    expected = read(outs)
    write_h5(outs / "filtered_feature_bc_matrix.h5", COUNTS[spots], [BARCODES[i] for i in spots])
    positions().iloc[rows].to_csv(outs / "spatial/tissue_positions.csv", index=False)
    shuffled = read(outs)
    assert shuffled.obs_names.tolist() == [BARCODES[i] for i in spots]
    sorted_again = shuffled[expected.obs_names]
    np.testing.assert_array_equal(sorted_again.X.toarray(), expected.X.toarray())
    np.testing.assert_array_equal(sorted_again.obsm[SPATIAL], expected.obsm[SPATIAL])
    pd.testing.assert_frame_equal(sorted_again.obs, expected.obs)


FACTORS = {"spot_diameter_fullres": 89.5, "fiducial_diameter_fullres": 144.5, "tissue_hires_scalef": 0.17}
DIAMETERS = ["spot_diameter_fullres", "fiducial_diameter_fullres"]


def read_factors(folder: Path, content: str | bytes, name: str = "scalefactors_json.json") -> dict[str, float]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_scalefactors(Sample(folder, "", "S1"))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(FACTORS),
        json.dumps({name: str(value) for name, value in FACTORS.items()}),
        json.dumps(FACTORS | {"regist_target_img_scalef": "of no interest"}),
        "\ufeff" + json.dumps(FACTORS),
        gzip.compress(json.dumps(FACTORS).encode()),
    ],
    ids=["as written", "numbers as text", "another key", "byte order mark", "gzipped"],
)
def test_numbers_are_read(tmp_path: Path, content: str | bytes) -> None:
    assert read_factors(tmp_path, content) == FACTORS


@pytest.mark.parametrize("value", [None, 0, 0.0])
@pytest.mark.parametrize("name", DIAMETERS)
def test_a_diameter_that_is_not_known_is_left_out(tmp_path: Path, name: str, value: object) -> None:
    assert name not in read_factors(tmp_path, json.dumps(FACTORS | {name: value}))


def test_a_file_without_diameters_is_read(tmp_path: Path) -> None:
    assert read_factors(tmp_path, '{"tissue_lowres_scalef": 0.05}') == {"tissue_lowres_scalef": 0.05}
    assert read_factors(tmp_path, "{}") == {}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "wide", [1], True, 10**400])
@pytest.mark.parametrize("name", [*DIAMETERS, "tissue_hires_scalef", "bin_size_um", "microns_per_pixel"])
def test_an_odd_number_is_named_with_its_file(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        read_factors(tmp_path, json.dumps(FACTORS | {name: value}))
    assert f"Found: {name} = {value!r} in {tmp_path / 'scalefactors_json.json'}." in str(caught.value)


def test_a_scale_of_0_is_odd(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tissue_hires_scalef = 0 in "):
        read_factors(tmp_path, json.dumps(FACTORS | {"tissue_hires_scalef": 0}))


@pytest.mark.parametrize("content", ["{", "", "[1]", "3", '"spot_diameter_fullres"', b"\xff\xfe\0"])
def test_what_is_no_record_cannot_be_read(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(InputError, match=r"scalefactors_json\.json cannot be read"):
        read_factors(tmp_path, content)


def test_a_fault_of_ours_is_no_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        read_factors(tmp_path, "{}")

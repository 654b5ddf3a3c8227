"""A tiny section in the her2st layout reads right; every defect is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spamcaf.errors import InputError
from spamcaf.readers import legacy_st
from spamcaf.readers.files import SectionQuery, SectionReader
from spamcaf.readers.legacy_st import read_counts, read_spots

COUNTS = np.arange(24).reshape(6, 4) % 5
SPOT_IDS = [f"{x}x{y}" for x in (10, 11, 12) for y in (20, 21)]


def counts() -> pd.DataFrame:
    return pd.DataFrame(COUNTS, index=SPOT_IDS, columns=["FASN", "NA", "ERBB2", "MT-CO1"])


def spots() -> pd.DataFrame:
    """In another order, with one spot more, and pixels off the ideal lattice."""
    table = pd.DataFrame([(x, y) for x in (10, 11, 12) for y in (20, 21)] + [(30, 30)], columns=["x", "y"])
    table["pixel_x"], table["pixel_y"] = table["x"] * 290 + 0.25, table["y"] * 291.5
    return table.assign(new_x=table["x"] + 0.1, new_y=table["y"], selected=1).iloc[::-1]


def write(root: Path, table: pd.DataFrame | None = None, places: pd.DataFrame | None = None) -> None:
    (counts() if table is None else table).to_csv(root / "ST-cnts/C2.tsv.gz", sep="\t")
    (spots() if places is None else places).to_csv(root / "ST-spotfiles/C2_selection.tsv", sep="\t", index=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("ST-cnts", "ST-spotfiles", "ST-imgs/C/C2", "ST-imgs/C/C3"):
        (tmp_path / folder).mkdir(parents=True)
    imagecodecs.imwrite(str(tmp_path / "ST-imgs/C/C2/HE.jpg"), np.full((30, 50, 3), 200, np.uint8))
    write(tmp_path)
    return tmp_path


def layout_of(root: Path, section: str = "C2", image: Path | None = None) -> SectionReader:
    reader = legacy_st.find(SectionQuery(root, section, image))
    assert reader is not None
    assert reader.kind == "legacy ST"
    return reader


def read(root: Path) -> AnnData:
    return layout_of(root).read()


def test_counts_places_and_facts(root: Path) -> None:
    section = read(root)
    assert section.obs_names.tolist() == SPOT_IDS
    assert section.var_names.tolist() == section.var["gene_ids"].tolist() == ["FASN", "NA", "ERBB2", "MT-CO1"]
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    assert section.X.dtype == np.int32
    np.testing.assert_array_equal(section.obsm["spatial"][1], (10 * 290 + 0.25, 21 * 291.5))
    assert section.obs.loc["12x20", ["array_col", "array_row", "in_tissue"]].tolist() == [12, 20, 1]
    facts = {"name": "C2", "lattice": "square", "pitch_um": 200.0, "spot_diameter_um": 100.0, "n_unmatched": 0}
    assert section.uns["section"] == facts


def test_spots_without_place_are_counted(root: Path) -> None:
    write(root, places=spots().iloc[:-2])
    section = read(root)
    assert section.obs_names.tolist() == SPOT_IDS[2:]
    assert section.uns["section"]["n_unmatched"] == 2
    np.testing.assert_array_equal(section.X.toarray(), COUNTS[2:])


Edit = Callable[[Path], object]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def other(root: Path, name: str) -> None:
    (root / "ST-imgs/C/C2/HE.jpg").unlink()
    path = root / "ST-imgs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((30, 50, 3), 200, np.uint8), photometric="rgb")


def spare(root: Path, name: str) -> None:
    (root / "ST-imgs" / name).write_bytes(b"not to be opened")


def plain(root: Path) -> None:
    (root / "ST-cnts/C2.tsv.gz").unlink()
    counts().to_csv(root / "ST-cnts/C2.tsv", sep="\t")


def zipped(root: Path) -> None:
    (root / "ST-spotfiles/C2_selection.tsv").unlink()
    spots().to_csv(root / "ST-spotfiles/C2_selection.tsv.gz", sep="\t", index=False)


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff" * 40
    path.write_bytes(content)


VARIANTS: dict[str, Edit] = {
    "as published": lambda r: None,
    "plain counts": plain,
    "zipped spot file": zipped,
    "counts as floats": lambda r: write(r, counts() * 1.0),
    "spots in another order": lambda r: write(r, places=spots().sort_values("y")),
    "columns swapped": lambda r: write(r, places=spots()[["y", "x", "pixel_y", "pixel_x", "selected"]]),
    "no selected": lambda r: write(r, places=spots().drop(columns="selected")),
    "indices as floats": lambda r: write(r, places=spots().astype({"x": float, "y": float})),
    "byte order mark": lambda r: (r / "ST-spotfiles/C2_selection.tsv").write_bytes(
        b"\xef\xbb\xbf" + (r / "ST-spotfiles/C2_selection.tsv").read_bytes()
    ),
    "another section beside it": lambda r: (counts() * 2).to_csv(r / "ST-cnts/C20.tsv.gz", sep="\t"),
    "twin of macOS": lambda r: (r / "ST-cnts/._C2.tsv.gz").write_bytes(b"\0\5"),
    "TIFF": lambda r: other(r, "C/C2/HE.tif"),
    "image by its own name": lambda r: other(r, "C2.tiff"),
    "image in a folder of its own": lambda r: other(r, "C2/slide.TIF"),
    "OME-TIFF": lambda r: other(r, "C2.ome.tif"),
    "image called as the section beside others": lambda r: (other(r, "C/C2/C2.tif"), spare(r, "C/C2/C2_1.tif")),
    "images of sections that begin alike": lambda r: (other(r, "C2.tif"), spare(r, "C2_1.tif"), spare(r, "C20.tif")),
    "thumbnail beside it": lambda r: spare(r, "C/C2/C2_hires_image.tif"),
    "gzipped twin beside it": lambda r: spare(r, "C/C2/HE.jpg.gz"),
}


@pytest.mark.parametrize("edit", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_gives_the_same_section(root: Path, edit: Edit) -> None:
    expected = read(root)
    edit(root)
    section = read(root)
    assert section.obs_names.tolist() == SPOT_IDS
    pd.testing.assert_frame_equal(section.obs, expected.obs)
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], expected.obsm["spatial"])
    assert layout_of(root).open_slide().shape == (30, 50)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.permutations(range(6)), places=st.permutations(range(7)))
def test_order_of_rows_does_not_matter(root: Path, rows: list[int], places: list[int]) -> None:
    write(root)
    expected = read(root)
    write(root, counts().iloc[rows], spots().iloc[places])
    section = read(root)[SPOT_IDS]
    np.testing.assert_array_equal(section.X.toarray(), COUNTS)
    np.testing.assert_array_equal(section.obsm["spatial"], expected.obsm["spatial"])


def test_spots_that_are_not_selected_are_off_the_tissue(root: Path) -> None:
    table = spots()
    write(root, places=table.assign(selected=(table["x"] > 10).astype(int)))
    assert read(root).obs["in_tissue"].tolist() == [0, 0, 1, 1, 1, 1]


DEFECTS: dict[str, tuple[Edit, str]] = {
    "no counts": (lambda r: (r / "ST-cnts/C2.tsv.gz").rename(r / "ST-cnts/G1.tsv.gz"), "no section 'C2'.*there are G1"),
    "no spot file": (lambda r: (r / "ST-spotfiles/C2_selection.tsv").unlink(), "no section 'C2' .*there are none"),
    "no spot folder": (lambda r: (r / "ST-spotfiles").rename(r / "spots"), "no folder .*ST-spotfiles"),
    "corrupt gz": (lambda r: corrupt(r / "ST-cnts/C2.tsv.gz"), "C2.tsv.gz cannot be read"),
    "empty counts": (lambda r: (r / "ST-cnts/C2.tsv.gz").write_bytes(b""), "C2.tsv.gz cannot be read"),
    "zeros only": (lambda r: write(r, counts() * 0), "holds no"),
    "no spots": (lambda r: write(r, counts()[:0]), "holds no|text in column"),
    "infinite counts": (lambda r: write(r, counts().replace(3, np.inf)), "missing"),
    "gene twice": (lambda r: write(r, counts().set_axis(["FASN", "B", "FASN", "C"], axis=1)), "gene FASN twice"),
    "infinite pixel": (lambda r: write(r, places=spots().assign(pixel_y=np.inf)), "without pixel coordinates"),
    "missing index": (lambda r: write(r, places=spots().assign(x=np.nan)), "without pixel coordinates"),
    "fractional index": (lambda r: write(r, places=spots().assign(x=10.5)), "fractional x or y"),
    "selected neither yes nor no": (lambda r: write(r, places=spots().assign(selected=5)), "other than 0 and 1"),
    "header alone": (lambda r: write(r, places=spots()[:0]), "no spot of C2 in common"),
    "two count tables": (lambda r: counts().to_csv(r / "ST-cnts/C2.tsv", sep="\t"), "2 files of section 'C2'"),
    "no folder": (lambda r: (r / "ST-cnts").rename(r / "counts"), "no folder .*ST-cnts"),
    "truncated": (lambda r: truncate(r / "ST-cnts/C2.tsv.gz"), "C2.tsv.gz cannot be read"),
    "text": (lambda r: write(r, counts().astype(object).replace(3, "many")), "text in column"),
    "fractional": (lambda r: write(r, counts() + 0.5), "fractional"),
    "above 2^31": (lambda r: write(r, counts() * 2**30), "C2.tsv.gz holds values above 2.31"),
    "negative": (lambda r: write(r, counts() - 1), "negative"),
    "missing": (lambda r: write(r, counts().replace(3, np.nan)), "missing"),
    "no genes": (lambda r: write(r, counts()[[]]), "holds no"),
    "count row twice": (lambda r: write(r, pd.concat([counts(), counts()[:1]])), "spot 10x20 twice .*ST-cnts"),
    "spot twice": (lambda r: write(r, places=pd.concat([spots(), spots()[:1]])), "spot 30x30 twice"),
    "column missing": (lambda r: write(r, places=spots().drop(columns="pixel_y")), "also pixel_y"),
    "no pixel": (lambda r: write(r, places=spots().assign(pixel_x="?")), "without pixel coordinates"),
    "empty spot file": (lambda r: (r / "ST-spotfiles/C2_selection.tsv").write_text(""), "cannot be read"),
    "another section": (lambda r: write(r, places=spots().assign(x=99, y=range(7))), "no spot of C2 in common"),
}


@pytest.mark.parametrize(("edit", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_is_named(root: Path, edit: Edit, message: str) -> None:
    edit(root)
    with pytest.raises(InputError) as caught:
        read(root)
    assert re.fullmatch(f"Found: .*({message}).*", str(caught.value), re.DOTALL), caught.value


def test_a_section_without_image_lists_the_others(root: Path) -> None:
    (root / "ST-imgs/C/C2/HE.jpg").rename(root / "ST-imgs/C/C3/HE.jpg")
    with pytest.raises(InputError, match=r"no section 'C2' in .*ST-imgs; there are C3"):
        layout_of(root).open_slide()


def test_a_gzipped_image_is_to_be_unpacked(root: Path) -> None:
    (root / "ST-imgs/C/C2/HE.jpg").rename(root / "ST-imgs/C/C2/HE.jpg.gz")
    with pytest.raises(InputError, match=r"HE\.jpg\.gz is packed.*gunzip HE\.jpg\.gz"):
        layout_of(root).open_slide()


@pytest.mark.parametrize("part", ["ST-cnts/C2.tsv.gz", "ST-spotfiles/C2_selection.tsv"])
def test_a_fault_of_ours_is_no_damage_of_the_file(root: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a library no longer knows an argument that it is called with."""
    monkeypatch.setattr(pd, "read_csv", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        (read_counts if "cnts" in part else read_spots)(root / part)


def test_two_images_are_named(root: Path) -> None:
    imagecodecs.imwrite(str(root / "ST-imgs/C/C2/again.png"), np.full((30, 50, 3), 200, np.uint8))
    with pytest.raises(InputError, match=r"2 files of section 'C2' in .*HE\.jpg, again\.png"):
        layout_of(root).open_slide()


def test_a_given_image_wins(root: Path) -> None:
    tifffile.imwrite(root / "slide.tif", np.full((31, 50, 3), 200, np.uint8), photometric="rgb")
    assert layout_of(root, image=root / "slide.tif").open_slide().shape == (31, 50)
    with pytest.raises(InputError, match="no image .*nowhere"):
        layout_of(root, image=root / "nowhere.tif").open_slide()


def test_an_unknown_section_lists_those_there(root: Path) -> None:
    with pytest.raises(InputError, match=r"no section 'D1' in .*ST-cnts; there are C2"):
        legacy_st.find(SectionQuery(root, "D1"))


def test_other_folders_are_not_of_legacy_st(tmp_path: Path) -> None:
    (tmp_path / "ST-imgs").mkdir()
    assert legacy_st.find(SectionQuery(tmp_path, "C2")) is None

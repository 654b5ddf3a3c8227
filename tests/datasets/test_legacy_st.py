"""A tiny section in the her2st layout reads right; every defect is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError

from spamcaf.datasets.legacy_st import LegacySTSectionDataset
from spamcaf.datasets.slide import LegacySTSlideDataset
from spamcaf.errors import InputError

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


def read(root: Path, section: str = "C2") -> object:
    return LegacySTSectionDataset(filepath=str(root), section=section).load()


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


def test_the_image_of_the_section_is_opened(root: Path) -> None:
    assert LegacySTSlideDataset(filepath=str(root), section="C2").load().shape == (30, 50)


Edit = Callable[[Path], object]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


DEFECTS: dict[str, tuple[Edit, str]] = {
    "no counts": (lambda r: (r / "ST-cnts/C2.tsv.gz").rename(r / "ST-cnts/G1.tsv.gz"), "no section 'C2'.*there are G1"),
    "no spot file": (lambda r: (r / "ST-spotfiles/C2_selection.tsv").unlink(), "no section 'C2' .*there are none"),
    "two count tables": (lambda r: counts().to_csv(r / "ST-cnts/C2.tsv", sep="\t"), "2 files of section 'C2'"),
    "no folder": (lambda r: (r / "ST-cnts").rename(r / "counts"), "no folder .*ST-cnts"),
    "truncated": (lambda r: truncate(r / "ST-cnts/C2.tsv.gz"), "C2.tsv.gz cannot be read"),
    "text": (lambda r: write(r, counts().astype(object).replace(3, "many")), "text in column"),
    "fractional": (lambda r: write(r, counts() + 0.5), "fractional"),
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
    with pytest.raises(DatasetError) as caught:
        read(root)
    error = InputError.within(caught.value)
    assert error is not None, caught.value
    assert " Expected: " in str(error)
    assert " Next step: " in str(error)
    assert re.fullmatch(f"Found: .*{message}.*", str(error), re.DOTALL), error


def test_unknown_image_lists_the_sections(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"no section 'D1' in .*ST-imgs; there are C2, C3"):
        LegacySTSlideDataset(filepath=str(root), section="D1").load()


def test_raw_data_are_never_written(root: Path) -> None:
    with pytest.raises(DatasetError, match="read-only"):
        LegacySTSectionDataset(filepath=str(root), section="C2").save(read(root))

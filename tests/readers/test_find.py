"""Readers are found by content, in a fixed order; two are never chosen between; an image alone was not measured."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from kedro.io import DatasetError

from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.datasets.section import SectionDataset, SectionSlideDataset
from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.find import find_reader
from spamcaf.simulation.section import SimulatedTissue
from spamcaf.simulation.space_ranger import IMAGE, write_space_ranger

TISSUE = SimulationSettings(width_um=700, height_um=600, mpp=1.0, n_genes=40)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one Visium section, whose image is in it."""
    folder = tmp_path_factory.mktemp("sections")
    (folder / "S1").mkdir()
    write_space_ranger(SimulatedTissue(TISSUE), folder / "S1/outs")
    return folder


def legacy(root: Path, section: str) -> None:
    for folder, name in (("ST-cnts", f"{section}.tsv"), ("ST-spotfiles", f"{section}_selection.tsv")):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).write_text("")


def h5ad(root: Path) -> None:
    SimulatedTissue(TISSUE).section().write_h5ad(root / "S1.h5ad")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The folders of a Visium section, empty."""
    (tmp_path / "S1/outs/spatial").mkdir(parents=True)
    return tmp_path


def test_each_layout_is_named(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    legacy(bare, "C2")
    (bare / "S3/outs/binned_outputs/square_008um").mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        kinds = [find_reader(SectionQuery(bare, section)).kind for section in ("S1", "C2", "S3")]
    assert kinds == ["Space Ranger", "legacy ST", "Visium HD"]
    assert "section S3: Visium HD" in caplog.text


def test_two_layouts_of_one_section_are_not_chosen_between(bare: Path) -> None:
    legacy(bare / "S1", "S1")
    with pytest.raises(InputError, match=r"section 'S1' in .* as Space Ranger and as legacy ST\. .*raw_root="):
        find_reader(SectionQuery(bare, "S1"))


def test_two_layouts_of_two_sections_are_no_matter(bare: Path) -> None:
    legacy(bare, "C2")
    assert find_reader(SectionQuery(bare, "S1")).kind == "Space Ranger"


def test_what_an_instrument_wrote_wins_over_an_analysis(bare: Path) -> None:
    h5ad(bare / "S1")
    assert find_reader(SectionQuery(bare, "S1")).kind == "Space Ranger"
    (bare / "S1/outs/spatial").rmdir()
    assert find_reader(SectionQuery(bare, "S1")).kind != "Space Ranger"


def test_an_unclear_instrument_is_not_passed_over_for_an_analysis(bare: Path) -> None:
    h5ad(bare / "S1")
    for size in ("008", "016"):
        (bare / f"S1/outs/binned_outputs/square_{size}um").mkdir(parents=True)
    with pytest.raises(InputError, match="bins of 8, 16 um"):
        find_reader(SectionQuery(bare, "S1"))


@pytest.mark.parametrize("section", ["S2", "S10", "spatial"])
def test_a_section_that_is_not_there_lists_what_is(bare: Path, section: str) -> None:
    with pytest.raises(InputError, match=rf"no section '{section}' in .*, but S1/\. Expected: Space Ranger"):
        find_reader(SectionQuery(bare, section))


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        find_reader(SectionQuery(tmp_path / "nowhere", "S1"))
    (tmp_path / "notes.txt").write_text("S1")
    with pytest.raises(InputError, match="that is a file"):
        find_reader(SectionQuery(tmp_path / "notes.txt", "S1"))


def test_the_catalog_entries_load_section_and_slide(root: Path) -> None:
    section = SectionDataset(filepath=str(root), section="S1").load()
    assert section.uns["section"]["layout"] == "Space Ranger"
    assert section.uns["section"]["name"] == "S1"
    slide = SectionSlideDataset(filepath=str(root), section="S1").load()
    assert slide.shape == SimulatedTissue(TISSUE).image_shape[:2]


def test_the_entries_tell_whether_the_section_is_there(root: Path) -> None:
    assert SectionDataset(filepath=str(root), section="S1").exists()
    assert not SectionDataset(filepath=str(root), section="S2").exists()


def test_a_given_image_wins(root: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.tif", np.full((40, 30, 3), 200, np.uint8), photometric="rgb")
    entry = SectionSlideDataset(filepath=str(root), section="S1", image=str(tmp_path / "other.tif"))
    assert entry.load().shape == (40, 30)
    with pytest.raises(DatasetError, match="no image .*nowhere"):
        SectionSlideDataset(filepath=str(root), section="S1", image=str(tmp_path / "nowhere.tif")).load()
    with pytest.raises(InputError, match="no image .*nowhere"):  # before any work
        SectionSlideDataset(filepath=str(root), section="S1", image=str(tmp_path / "nowhere.tif")).require()


@pytest.mark.parametrize("word", ["none", "None", "NONE"])
def test_no_image_may_be_asked_for(root: Path, word: str) -> None:
    entry = SectionSlideDataset(filepath=str(root), section="S1", image=word)
    entry.require()
    assert entry.load() is None and entry.origin() == {"image": "none"}
    assert BackboneDataset(name="uni", backbones={}, image=word).is_blind


def test_errors_reach_the_user_as_input_errors(root: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        SectionDataset(filepath=str(root), section="S2").load()
    assert InputError.within(caught.value) is not None


def test_raw_data_are_never_written(root: Path) -> None:
    entry = SectionDataset(filepath=str(root), section="S1")
    section = entry.load()
    with pytest.raises(DatasetError, match="read-only"):
        entry.save(section)


@pytest.mark.parametrize("bin_um", ["wide", 8.5, [8]])
def test_a_bin_size_that_is_no_whole_number_is_an_error(root: Path, bin_um: object) -> None:
    with pytest.raises(InputError, match="bin_um = "):
        SectionDataset(filepath=str(root), section="S1", bin_um=bin_um)


@pytest.mark.parametrize("bin_um", [8, 8.0, "8", "008"])
def test_a_bin_size_may_be_written_in_any_way(bare: Path, bin_um: object) -> None:
    for size in ("008", "016"):
        (bare / f"S1/outs/binned_outputs/square_{size}um").mkdir(parents=True)
    assert SectionDataset(filepath=str(bare), section="S1", bin_um=bin_um).exists()


def test_a_bin_size_of_a_section_without_bins_is_reported(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        find_reader(replace(SectionQuery(root, "S1"), bin_um=8))
    assert "bin_um" in caplog.text


def test_labels_are_joined(root: Path, tmp_path: Path) -> None:
    names = SectionDataset(filepath=str(root), section="S1").load().obs_names
    (tmp_path / "labels.tsv").write_text(f"{names[0]}\tS1\tL1\n{names[1]}\tS1\tWM\n")
    labels = SectionDataset(filepath=str(root), section="S1", labels=str(tmp_path / "labels.tsv")).load().obs["label"]
    assert labels.iloc[:2].tolist() == ["L1", "WM"]
    assert labels.iloc[2:].isna().all()


def test_the_image_of_the_writer_is_the_one_found(root: Path) -> None:
    assert find_reader(SectionQuery(root / "S1/outs", "S1")).open_slide().name == IMAGE


def lay(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((30, 50, 3), 200, np.uint8), photometric="rgb")
    return path


@pytest.mark.parametrize("name", ["S1.tif", "S1_HE.tif", "S1/whatever.tif"])
def test_the_image_is_found_and_holds_no_counts(tmp_path: Path, name: str) -> None:
    lay(tmp_path / name)
    lay(tmp_path / "S10.tif")
    reader = find_reader(SectionQuery(tmp_path, "S1"))
    assert reader.open_slide().shape == (30, 50)
    with pytest.raises(InputError, match="--pipelines transfer"):
        reader.read()


def test_a_named_image_and_a_root_that_is_one(tmp_path: Path) -> None:
    image = lay(tmp_path / "a/b.tif")
    assert find_reader(SectionQuery(tmp_path, "S1", image=image)).open_slide().name == "b.tif"
    assert find_reader(SectionQuery(image, "S1")).open_slide().name == "b.tif"


@pytest.mark.parametrize("folder", ["", "S1/"])
@pytest.mark.parametrize(
    "names", [("S1.tif", "S1_1.tif"), ("S1.ome.tif", "S1_2.ome.tif"), ("S1_HE.tif", "S1_1_HE.tif")]
)
def test_the_image_called_as_the_section_wins(tmp_path: Path, folder: str, names: tuple[str, ...]) -> None:
    for name in names:
        lay(tmp_path / folder / name)
    assert find_reader(SectionQuery(tmp_path, "S1")).open_slide().name == names[0]


@pytest.mark.parametrize(
    "name", ["S1_tissue_hires_image.tif", "S1/detected_tissue_image.tif", "S1_cytassist_image.tif", "S1_lowres.tif"]
)
def test_a_derived_image_is_no_section(tmp_path: Path, name: str) -> None:
    lay(tmp_path / name)
    with pytest.raises(InputError, match=rf"no full-resolution image of section 'S1'.* made {Path(name).name}.*image="):
        find_reader(SectionQuery(tmp_path, "S1"))
    lay(tmp_path / "S1.tif")
    assert find_reader(SectionQuery(tmp_path, "S1")).open_slide().name == "S1.tif"


@pytest.mark.parametrize("name", ["S1.tif.gz", "S1/slide.tif.gz"])
def test_a_gzipped_image_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"{name} is packed.*gunzip {Path(name).name}"):
        find_reader(SectionQuery(tmp_path, "S1"))
    lay(tmp_path / name.removesuffix(".gz"))
    assert find_reader(SectionQuery(tmp_path, "S1")).open_slide().shape == (30, 50)


def test_the_image_taken_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lay(tmp_path / "S1_scan.tif")
    with caplog.at_level(logging.INFO):
        find_reader(SectionQuery(tmp_path, "S1"))
    assert f"the full-resolution image is {path}" in caplog.text


def test_several_images_are_named(tmp_path: Path) -> None:
    lay(tmp_path / "S1/a.tif")
    lay(tmp_path / "S1/b.tif")
    with pytest.raises(InputError, match=r"2 images of section 'S1': a\.tif, b\.tif"):
        find_reader(SectionQuery(tmp_path, "S1"))

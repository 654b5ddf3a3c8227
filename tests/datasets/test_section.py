"""A section, its slide and its truth are simulated or read from files, by one choice of an environment."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DatasetError

from spamcaf.datasets.section import (
    NoTruthDataset,
    SectionDataset,
    SectionSlideDataset,
    SlideOpenerDataset,
    TruthDataset,
)
from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue
from spamcaf.simulation.space_ranger import IMAGE, write_space_ranger

SIMULATION = {"width_um": 700.0, "height_um": 600.0, "mpp": 1.0, "n_genes": 40}
ENTRIES = (SectionDataset, SectionSlideDataset, TruthDataset)


@pytest.fixture(scope="module")
def tissue() -> SimulatedTissue:
    return SimulatedTissue(SimulationSettings.model_validate(SIMULATION))


@pytest.fixture(scope="module")
def root(tissue: SimulatedTissue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the simulated tissue as Space Ranger's section S1, and a table of labels."""
    folder = tmp_path_factory.mktemp("sections")
    write_space_ranger(tissue, folder / "S1/outs")
    barcode = tissue.section().obs_names[0]
    (folder / "layers.tsv").write_text(f"{barcode}\tS1\tL1\n")
    return folder


def test_simulated_entries_are_of_one_tissue(tissue: SimulatedTissue) -> None:
    section, slide, truth = (entry(source="simulated", simulation=SIMULATION).load() for entry in ENTRIES)
    assert section.obs_names.equals(tissue.section().obs_names)
    assert slide.shape == tissue.image_shape[:2]
    assert truth.genes.equals(tissue.genes)


@pytest.mark.parametrize("name", ["C2", "simulated_", "simulated_a", "simulated_-1"])
def test_another_section_is_not_simulated(name: str) -> None:
    with pytest.raises(DatasetError, match=rf"no section '{name}'.*simulated_7.*--env her2st"):
        SectionDataset(source="simulated", section=name, simulation=SIMULATION).load()


def test_a_number_in_the_name_is_the_seed_of_a_simulated_section() -> None:
    given: dict[str, Any] = {"source": "simulated", "simulation": SIMULATION}
    named = [SectionSlideDataset(section=name, **given) for name in ("simulated_5", "simulated_6", "simulated_5")]
    seeded = SectionSlideDataset(source="simulated", simulation={**SIMULATION, "seed": 5})
    images = [entry.load().fingerprint for entry in (*named, seeded)]
    assert images[0] == images[2] == images[3] != images[1]
    assert named[0].origin() == seeded.origin() != named[1].origin()


def test_the_simulated_picture_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    render = SimulatedTissue.render
    monkeypatch.setattr(SimulatedTissue, "render", lambda *args: rendered.append(args) or render(*args))
    given: dict[str, Any] = {"source": "simulated", "section": "simulated_77", "simulation": SIMULATION}
    section = SectionDataset(**given).load()
    slides = [SectionSlideDataset(**given).load() for _ in range(3)]
    assert len(rendered) == 1
    assert len({slide.fingerprint for slide in slides}) == 1
    own = SimulatedTissue(SimulationSettings.model_validate({**SIMULATION, "seed": 77})).section()
    ((_, kept),), ((_, strips),) = section.uns["spatial"].items(), own.uns["spatial"].items()
    np.testing.assert_array_equal(kept["images"]["hires"], strips["images"]["hires"])


def test_files_are_the_default_and_have_no_truth(root: Path, tissue: SimulatedTissue) -> None:
    given: dict[str, Any] = {"filepath": str(root), "section": "S1"}
    section, slide, truth = (entry(**given).load() for entry in ENTRIES)
    assert set(section.obs_names) == set(tissue.section().obs_names)
    assert slide.name == IMAGE
    assert truth is None
    assert NoTruthDataset().load() is None
    assert all(entry(**given).exists() for entry in ENTRIES)
    assert [entry(filepath=str(root), section="S2").exists() for entry in ENTRIES] == [False, False, True]


@pytest.mark.parametrize("as_path", [False, True])
def test_labels_are_read_from_beside_the_sections_or_by_path(root: Path, as_path: bool) -> None:
    labels = {"labels": str(root / "layers.tsv")} if as_path else {"label_table": "layers.tsv"}
    section: anndata.AnnData = SectionDataset(filepath=str(root), section="S1", **labels).load()
    assert section.obs["label"].dropna().tolist() == ["L1"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_another_source_is_refused(entry: type[SectionDataset]) -> None:
    with pytest.raises(InputError, match=r"source = 'file'.*files or simulated"):
        entry(source="file")


@pytest.mark.parametrize("entry", ENTRIES)
def test_raw_data_are_read_only(entry: type[SectionDataset]) -> None:
    with pytest.raises(DatasetError, match="read-only"):
        entry().save(np.zeros(3))


OLD_CATALOG = """
_section: ${runtime_params:section,${globals:section}}
_raw_root: ${runtime_params:raw_root,${globals:raw_root}}
_image: ${runtime_params:image,${globals:image,null}}
_bin_um: ${runtime_params:bin_um,${globals:bin_um,null}}

raw_section:
  type: spamcaf.datasets.section.SectionDataset
  filepath: ${_raw_root}
  section: ${_section}
  image: ${_image}
  bin_um: ${_bin_um}
  labels: ${_raw_root}/layers.tsv
  metadata: {kedro-viz: {layer: raw}}

slide:
  type: spamcaf.datasets.section.SectionSlideDataset
  filepath: ${_raw_root}
  section: ${_section}
  image: ${_image}
  bin_um: ${_bin_um}
  metadata: {kedro-viz: {layer: raw}}

truth:
  type: spamcaf.datasets.section.NoTruthDataset
  metadata: {kedro-viz: {layer: raw}}
"""


def old(folder: Path, root: Path) -> None:
    """Write an environment as version 0.1 had them: a catalog of its own, and no source in its globals."""
    folder.mkdir()
    (folder / "catalog.yml").write_text(OLD_CATALOG)
    (folder / "globals.yml").write_text(f"section: S1\nraw_root: {root}\n")


def new(folder: Path, root: Path) -> None:
    folder.mkdir()
    (folder / "globals.yml").write_text(f"section: S1\nraw_root: {root}\nsource: files\nlabel_table: layers.tsv\n")


@pytest.mark.parametrize("write", [old, new])
def test_an_environment_names_its_section_in_globals_or_in_a_catalog_of_its_own(
    project: Path, root: Path, write: Any
) -> None:
    env = f"{write.__name__}_environment"
    write(project / "conf" / env, root)
    bootstrap_project(project)
    try:
        with KedroSession.create(project, env=env) as session:
            catalog = session.load_context().catalog
            section = catalog.load("raw_section")
            assert (section.n_vars, catalog.load("slide").name, catalog.load("truth")) == (40, IMAGE, None)
            assert section.obs["label"].dropna().tolist() == ["L1"]
    finally:
        shutil.rmtree(project / "conf" / env)


def test_image_and_bins_of_a_run_reach_the_entries(project: Path, root: Path, tmp_path: Path) -> None:
    image = shutil.copy(root / "S1/outs" / IMAGE, tmp_path / "elsewhere.tif")
    bootstrap_project(project)
    given = {"section": "S1", "raw_root": str(root), "image": str(image), "bin_um": "16"}
    with KedroSession.create(project, env="own", runtime_params=given) as session:
        catalog = session.load_context().catalog
        assert catalog.load("slide").name == "elsewhere.tif"
        assert [catalog.get(name)._query.bin_um for name in ("raw_section", "slide")] == [16, 16]


def test_a_slide_is_opened_when_it_is_asked_for(root: Path, tmp_path: Path) -> None:
    open_slide = SlideOpenerDataset(filepath=str(root), section="S1").load()
    assert open_slide().name == IMAGE
    SlideOpenerDataset(filepath=str(tmp_path), section="S1").load()  # nothing is there, and nothing was looked for

"""A section without an image: everything is predicted from coordinates and expression, and says so."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
import spatialdata
from anndata import AnnData

from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue
from tests.conftest import SIMULATION, Run

CHOSEN = "image=none,run=blind,grid.pitch_um=40,backbone=uni"  # whose weights are not here, and not needed
BRIEF = "panel.n_genes=60,split.n_folds=3,report.n_genes=2"
BEADS = f"section=beads,raw_root=data/01_raw,image=none,section_checks.scattered=true,{BRIEF}"
OUTPUT, REPORTS = "data/07_model_output/simulated/blind", "data/08_reporting/simulated/blind"


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory, project: Path, kedro: Run) -> Path:
    """Return a project with a run without an image."""
    folder = tmp_path_factory.mktemp("without_image") / "project"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("data"))
    ended = kedro("run", "--params", CHOSEN, folder=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "WITHOUT AN IMAGE" in ended.stdout + ended.stderr
    return folder


def test_it_is_scored_beside_what_needs_no_image(blind):
    scores = json.loads((blind / REPORTS / "scores.json").read_text())
    assert scores["image"] == "none"
    assert set(scores["models"]) == {"spamcaf", "program_gp", "gene_mean", "idw", "kriging"}
    assert scores["models"]["spamcaf"]["pcc_mean"] > scores["models"]["gene_mean"]["pcc_mean"]
    between = scores["super_resolution"]["models"]
    assert between["spamcaf"]["pcc_mean"] > between["nearest_spot"]["pcc_mean"]
    assert "No image was used" in (blind / REPORTS / "report.html").read_text()


def test_results_have_the_raster_and_no_image(blind):
    map_ = anndata.read_h5ad(blind / OUTPUT / "super_resolved.h5ad")
    x = np.unique(map_.obsm["spatial"][:, 0].round(3))
    np.testing.assert_allclose(np.diff(x), 40 / 2.0)  # 2 um per pixel
    assert np.isfinite(map_.X).all() and (map_.layers["sd"] > 0).all()
    data = spatialdata.read_zarr(blind / OUTPUT / "simulated.zarr")
    assert not data.images and len(data["table"]) == map_.n_obs


def test_results_with_and_without_an_image_do_not_mix(blind, kedro):
    ended = kedro("run", "--pipelines", "training", "--params", CHOSEN.replace("image=none,", ""), folder=blind)
    assert ended.returncode != 0
    assert "image=none" in ended.stdout + ended.stderr or "image none" in ended.stdout + ended.stderr


def test_what_needs_an_image_is_refused(blind, kedro):
    released = kedro("run", "--params", f"{CHOSEN},fit.model=released", folder=blind)
    assert "without an image (image=none)" in released.stdout + released.stderr
    transfer = kedro("run", "--pipelines", "transfer", "--params", CHOSEN, folder=blind)
    assert "of which nothing else is known" in transfer.stdout + transfer.stderr


def test_the_doctor_knows(blind, kedro):
    ended = kedro("doctor", "--params", CHOSEN, folder=blind)
    assert ended.returncode == 0, ended.stdout
    assert "none, as image=none asks" in ended.stdout


@pytest.fixture(scope="module")
def beads(blind: Path, kedro: Run) -> Path:
    """Return the project with a run on spots at random places, whose coordinates are micrometres."""
    raw = SimulatedTissue(SimulationSettings.model_validate({**SIMULATION, "width_um": 1500.0})).section()
    random = np.random.default_rng(0)
    xy_um = raw.obsm["spatial"] * SIMULATION["mpp"] + random.uniform(-45, 45, (raw.n_obs, 2))
    folder = blind / "data/01_raw/beads"
    folder.mkdir(parents=True)
    AnnData(raw.X, raw.obs[[]], raw.var, obsm={"spatial": xy_um}).write_h5ad(folder / "beads.h5ad")
    ended = kedro("run", "--env", "own", "--params", f"{BEADS},section_checks.mpp=1", folder=blind)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return blind


def test_spots_on_no_lattice_are_predicted_too(beads):
    scores = json.loads((beads / "data/08_reporting/beads/default/scores.json").read_text())
    found = {name: values["pcc_mean"] for name, values in scores["models"].items()}
    assert found["spamcaf"] > max(found["idw"], 0.1) and found["kriging"] > 0.1
    report = (beads / "data/08_reporting/beads/default/report.html").read_text()
    assert "No image was used" in report and "draw on the H&amp;E" not in report  # not even a small one
    map_ = anndata.read_h5ad(beads / "data/07_model_output/beads/default/super_resolved.h5ad")
    metadata = map_.uns["spatial"]["beads"]["metadata"]
    assert metadata["parent_pitch_um"] == pytest.approx(93, rel=0.1)  # the root of the area of a hexagonal cell
    step = np.diff(np.unique(map_.obsm["spatial"][:, 0].round(3)))
    np.testing.assert_allclose(step, metadata["parent_pitch_um"] / 2, rtol=1e-3)


def test_scattered_spots_need_their_unit_and_have_no_sublattice(beads, kedro):
    unknown = kedro("run", "--env", "own", "--params", BEADS, folder=beads)
    assert "section_checks.mpp=1" in unknown.stdout + unknown.stderr
    lattice = f"{BEADS},section_checks.mpp=1,split.protocol=lattice"
    ended = kedro("run", "--env", "own", "--pipelines", "ingestion", "--params", lattice, folder=beads)
    assert "split.protocol=lattice of scattered spots" in ended.stdout + ended.stderr
    unsaid = BEADS.replace(",section_checks.scattered=true", "")
    ended = kedro("run", "--env", "own", "--params", unsaid, folder=beads)
    assert "section_checks.scattered=true" in ended.stdout + ended.stderr

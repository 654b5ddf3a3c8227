"""Sections learn from each other, and a model predicts a section of which there is only the image."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml

from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue
from spamcaf.simulation.space_ranger import IMAGE, write_space_ranger

Run = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ("S1", "S2", "S3")


@pytest.fixture(scope="module")
def several(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the small project an environment with three sections of one simulated tissue; return their folder."""
    root = tmp_path_factory.mktemp("several")
    for seed, name in enumerate(NAMES, start=11):
        settings = SimulationSettings(seed=seed, width_um=1000.0, height_um=1000.0, mpp=0.8, n_genes=300)
        write_space_ranger(SimulatedTissue(settings), root / name)
    tiny, env = project / "conf/tiny", project / "conf/several"
    shutil.copytree(project / "conf/own", env)
    globals_ = yaml.safe_load((tiny / "globals.yml").read_text())
    (env / "globals.yml").write_text(
        yaml.safe_dump({"section": "S1", "raw_root": str(root), **{k: globals_[k] for k in ("backbone", "backbones")}})
    )
    shutil.copy(tiny / "parameters.yml", env / "parameters.yml")
    return root


@pytest.fixture(scope="module")
def ready(kedro: Run, several: Path) -> None:
    """Ingest and embed the sections to learn from."""
    for name in NAMES[1:]:
        done = kedro("run", "--pipelines", "ingestion,feature_extraction", "--params", f"section={name}", env="several")
        assert done.returncode == 0, done.stderr


def scores(project: Path, section: str) -> dict[str, object]:
    return json.loads((project / f"data/08_reporting/{section}/scores.json").read_text())


@pytest.mark.usefixtures("ready")
def test_a_section_learns_from_others(kedro: Run, project: Path) -> None:
    done = kedro("run", "--params", "section=S1,other_sections=S2+S3", env="several")
    assert done.returncode == 0, done.stderr
    found = scores(project, "S1")
    assert found["other_sections"] == ["S2", "S3"]
    assert found["n_train"] > 0
    assert "kriging" in found["models"]
    assert "S2, S3" in (project / "data/08_reporting/S1/report.html").read_text()


@pytest.mark.usefixtures("ready")
def test_a_section_is_predicted_by_others_alone(kedro: Run, project: Path) -> None:
    words = "section=S1,other_sections=S2+S3,split.protocol=section"
    done = kedro("run", "--params", words, env="several")
    assert done.returncode == 0, done.stderr
    found = scores(project, "S1")
    assert (found["protocol"], found["n_train"]) == ("section", 0)
    assert set(found["models"]) == {"spamcaf", "program_gp", "gene_mean", "ridge"}


@pytest.mark.usefixtures("ready")
def test_an_image_alone_is_predicted_by_the_model_of_a_measured_section(
    kedro: Run, project: Path, several: Path
) -> None:
    done = kedro("run", "--params", "section=S2", env="several")
    assert done.returncode == 0, done.stderr
    shutil.copy(several / "S3" / IMAGE, several / "unseen.tif")
    done = kedro("run", "--pipelines", "transfer", "--params", "section=unseen,model=S2", env="several")
    assert done.returncode == 0, done.stderr
    predicted = anndata.read_h5ad(project / "data/07_model_output/unseen/transferred.h5ad")
    model_genes = anndata.read_h5ad(project / "data/07_model_output/S2/recovered.h5ad").var_names
    assert predicted.var_names.tolist() == model_genes.tolist()
    assert predicted.n_obs >= 20
    assert np.isfinite(predicted.X).all() and np.asarray(predicted.X).std(axis=0).max() > 0
    assert (project / "data/08_reporting/unseen/transferred_maps.png").stat().st_size > 10_000
    assert (project / "data/07_model_output/unseen/unseen_transferred.zarr").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("section=S1,other_sections=S1", "among other_sections"),
        ("section=S1,other_sections=S9", "no section.h5ad of the other section 'S9'"),
        ("section=S1,split.protocol=section", "other_sections=<name>+<name>"),
    ],
)
@pytest.mark.usefixtures("several")
def test_what_cannot_be_learned_from_is_said(kedro: Run, words: str, message: str) -> None:
    done = kedro("run", "--params", words, env="several")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Found: ") and message in last


@pytest.mark.usefixtures("several")
def test_a_section_without_counts_is_pointed_to_transfer(kedro: Run, several: Path) -> None:
    shutil.copy(several / "S3" / IMAGE, several / "bare.tif")
    done = kedro("run", "--params", "section=bare", env="several")
    assert done.returncode == 1
    assert "--pipeline transfer" in done.stderr.strip().splitlines()[-1]

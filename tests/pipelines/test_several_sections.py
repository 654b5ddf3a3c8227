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
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three sections of one simulated tissue, and the images of two that were not measured."""
    root = tmp_path_factory.mktemp("several")
    for seed, name in enumerate(NAMES, start=11):
        settings = SimulationSettings(seed=seed, width_um=700.0, height_um=700.0, mpp=2.0, n_genes=300)
        write_space_ranger(SimulatedTissue(settings), root / name)
    for name in ("unseen", "bare"):
        shutil.copy(root / "S3" / IMAGE, root / f"{name}.tif")
    return root


@pytest.fixture(scope="module")
def folder(copy_finished: Callable[[Path], Path], raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished project with an environment `several` of those sections."""
    folder = copy_finished(tmp_path_factory.mktemp("project") / "several")
    tiny, env = folder / "conf/tiny", folder / "conf/several"
    shutil.copytree(folder / "conf/own", env)
    globals_ = yaml.safe_load((tiny / "globals.yml").read_text())
    backbone = {key: globals_[key] for key in ("backbone", "backbones")}
    section = {"section": "S1", "raw_root": str(raw_root), "source": "files"}
    (env / "globals.yml").write_text(yaml.safe_dump({**section, **backbone}))
    shutil.copy(tiny / "parameters.yml", env / "parameters.yml")
    return folder


@pytest.fixture(scope="module")
def run(kedro: Run, folder: Path) -> Run:
    """Return a function that runs `kedro run` in that environment."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return kedro("run", *words, env="several", folder=folder)

    return run


@pytest.fixture(scope="module")
def _others(run: Run, folder: Path) -> None:
    """Check the sections to learn from, and embed their spots."""
    for name in NAMES[1:]:
        done = run("--pipelines", "pooling", "--params", f"section={name}")
        assert done.returncode == 0, done.stderr
        assert not (folder / f"data/04_feature/{name}/grid_features").exists()
        assert not (folder / f"data/03_primary/{name}").exists()


def scores(folder: Path, section: str) -> dict[str, object]:
    return json.loads((folder / f"data/08_reporting/{section}/default/scores.json").read_text())


@pytest.mark.usefixtures("_others")
def test_a_section_learns_from_others(run: Run, folder: Path) -> None:
    done = run("--params", "section=S1,other_sections=S2+S3")
    assert done.returncode == 0, done.stderr
    found = scores(folder, "S1")
    assert found["other_sections"] == ["S2", "S3"]
    assert found["n_train"] > 0
    assert "kriging" in found["models"]
    assert "S2, S3" in (folder / "data/08_reporting/S1/default/report.html").read_text()


@pytest.mark.usefixtures("_others")
def test_a_section_is_predicted_by_others_alone(run: Run, folder: Path) -> None:
    done = run("--params", "section=S1,other_sections=S2+S3,split.protocol=section")
    assert done.returncode == 0, done.stderr
    found = scores(folder, "S1")
    assert (found["protocol"], found["n_train"]) == ("section", 0)
    assert set(found["models"]) == {"spamcaf", "program_gp", "gene_mean", "ridge", "depth_only"}


def test_an_image_alone_is_predicted_by_the_model_of_a_measured_section(run: Run, folder: Path) -> None:
    done = run("--pipelines", "transfer", "--params", "section=unseen,model=simulated")
    assert done.returncode == 0, done.stderr
    predicted = anndata.read_h5ad(folder / "data/07_model_output/unseen/default/transferred.h5ad")
    model_genes = anndata.read_h5ad(folder / "data/07_model_output/simulated/default/recovered.h5ad").var_names
    assert predicted.var_names.tolist() == model_genes.tolist()
    assert predicted.n_obs >= 20
    assert np.isfinite(predicted.X).all() and np.asarray(predicted.X).std(axis=0).max() > 0
    assert (folder / "data/08_reporting/unseen/default/transferred_maps.png").stat().st_size > 10_000
    assert (folder / "data/07_model_output/unseen/default/unseen_transferred.zarr").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("section=S1,other_sections=S1", "among other_sections"),
        ("section=S1,other_sections=S9", "no section.h5ad of the other section 'S9'"),
        ("section=S1,split.protocol=section", "other_sections=<name>+<name>"),
        ("section=bare", "--pipelines transfer"),
    ],
)
def test_what_cannot_be_learned_from_is_stated(run: Run, words: str, message: str) -> None:
    done = run("--params", words)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Found: ") and message in last

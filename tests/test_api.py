"""The functions without Kedro give what `kedro run` gives, as the README calls them."""

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pytest
import tifffile

from spamcaf import api
from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue
from tests.conftest import ROOT, SIMULATION, Run

BRIEF = {"panel.n_genes": 60, "split.n_folds": 3, "fit.epochs": 1, "report.n_genes": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with section.h5ad, raw counts and coordinates alone, and image.tif."""
    folder = tmp_path_factory.mktemp("section")
    tissue = SimulatedTissue(SimulationSettings.model_validate({**SIMULATION, "width_um": 900.0, "height_um": 900.0}))
    raw = tissue.section()
    anndata.AnnData(raw.X, raw.obs[[]], raw.var, obsm={"spatial": raw.obsm["spatial"]}).write_h5ad(
        folder / "section.h5ad"
    )
    tifffile.imwrite(folder / "image.tif", tissue.image, photometric="rgb")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, project: Path, kedro: Run):
    """Return the scores and the map of `kedro run` on that folder."""
    chosen = f"section=section,raw_root={folder},image={folder / 'image.tif'},backbone=efficientnet_lite0"
    # the spots alone do not tell how far apart they are
    short = ",".join(f"{name}={value}" for name, value in {**BRIEF, "section_checks.pitch_um": 100}.items())
    ended = kedro("run", "--env", "own", "--params", f"{chosen},{short}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    scores = json.loads((project / "data/08_reporting/section/default/scores.json").read_text())
    return scores, anndata.read_h5ad(project / "data/07_model_output/section/default/super_resolved.h5ad")


def test_the_readme_s_lines_give_what_kedro_run_gives(folder, run, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (lines,) = [block for block in blocks if "spamcaf.embed(" in block]
    assert len(lines.strip().splitlines()) <= 10
    monkeypatch.chdir(folder)
    brief = {**BRIEF, "section_checks.pitch_um": 100}
    whole = api.embed
    monkeypatch.setattr(api, "embed", lambda *words, **named: whole(*words, **named, settings=brief))
    names: dict = {}
    exec(lines, names)
    scores, expected = run
    assert names["scores"]["models"] == scores["models"]
    found = names["map_"]
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    np.testing.assert_array_equal(found.X, expected.X)
    np.testing.assert_array_equal(found.layers["sd"], expected.layers["sd"])


def test_refusals(folder):
    adata = anndata.read_h5ad(folder / "section.h5ad")
    image = folder / "image.tif"
    with pytest.raises(InputError, match="Did you mean 'epochs'"):
        api.embed(image, adata, settings={"fit.epoch": 3})
    with pytest.raises(InputError, match="backbone 'unii'"):
        api.embed(image, adata, "unii", settings={"section_checks.pitch_um": 100})
    with pytest.raises(InputError, match="no spatial coordinates"):
        api.embed(image, anndata.AnnData(adata.X, adata.obs, adata.var))

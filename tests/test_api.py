"""The functions without Kedro give what `kedro run` gives, as the README calls them."""

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pytest
import tifffile
from scipy.sparse import csc_matrix

from spamcaf import api
from spamcaf.errors import InputError
from spamcaf.limits import MIB
from spamcaf.parameters import SimulationSettings
from spamcaf.pipelines.inference import nodes
from spamcaf.reporting.prediction import named_layers
from spamcaf.simulation.section import SimulatedTissue
from tests.conftest import ROOT, SIMULATION, Run

BRIEF = {"panel.n_genes": 60, "split.n_folds": 3, "fit.epochs": 1, "report.n_genes": 2}
BLIND = {"section_checks.pitch_um": 100, "panel.n_genes": 60, "fit.use_network": False}


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
    scattered = adata.copy()
    scattered.obsm["spatial"] = np.random.default_rng(0).uniform(0, 400, (adata.n_obs, 2))
    with pytest.raises(InputError, match=r'settings=\{"section_checks.scattered": True, "section_checks.mpp": <'):
        api.embed(image, scattered)
    with pytest.raises(InputError, match="pass another folder or file: backbone_source=<"):
        api.embed(image, adata, "uni", backbone_source="nowhere")
    with pytest.raises(InputError, match="no image .*nope.tif"):
        api.embed(folder / "nope.tif", adata)
    for given in ((np.zeros((9, 9, 3), np.uint8), adata), (image, "section.h5ad")):
        with pytest.raises(InputError, match="in place of the"):
            api.embed(*given)
    with pytest.raises(InputError, match="the section name 'a b/c'"):
        api.embed(image, adata, name="a b/c")
    for settings, reason in (
        (["seed"], "a mapping of settings"),
        ({"seed.x": 1}, "settings of seed"),
        ({"section": "C2"}, "'section' among the settings"),
        ({"panel.n_genes": "many"}, "in `settings`"),
    ):
        with pytest.raises(InputError, match=reason) as refused:
            api.embed(image, adata, settings=settings)
        assert "--params" not in str(refused.value)


@pytest.fixture(scope="module")
def blind(folder):
    """Return the section and what is known of it without an image."""
    adata = anndata.read_h5ad(folder / "section.h5ad")
    return adata, api.embed(None, adata, "uni", settings=BLIND)


def test_without_an_image(blind):
    adata, features = blind
    scores = api.evaluate(adata, features)
    assert scores["image"] == "none" and "ridge" not in scores["models"]
    map_ = api.super_resolve(api.fit(adata, features), adata, subdivide=3)
    assert map_.n_obs > 5 * adata.n_obs and np.isfinite(map_.X).all()
    with pytest.raises(InputError, match=r'of 1 sites.*settings=\{"grid.pitch_um": 50\}'):
        api.super_resolve(api.fit(adata, features), adata, settings={"grid.pitch_um": 5000})


def test_how_a_section_is_stored_changes_nothing(blind):
    adata, features = blind
    dense, columns = adata.copy(), adata.copy()
    dense.X, columns.X = adata.X.toarray().astype(np.float32), csc_matrix(adata.X).astype(np.int64)
    for same in (dense, columns, adata[:, :]):
        kept = same.copy()
        scores = api.evaluate(same, features)["models"]
        assert scores == api.evaluate(adata, features)["models"]
        np.testing.assert_array_equal(same.obsm["spatial"], kept.obsm["spatial"])
        assert list(same.obs) == list(kept.obs) and list(same.uns) == list(kept.uns) and not named_layers(same)


def test_groups_of_settings_change_what_they_name_alone(blind):
    adata, features = blind
    model = api.fit(adata, features, settings={"fit": {"n_gene_processes": 0}, "panel": {"n_genes": 30}})
    assert model.settings.fit.use_network is False and model.settings.fit.n_gene_processes == 0
    assert model.expression.n_vars == model.settings.panel.n_genes


def test_another_section_is_refused(blind, folder, monkeypatch):
    adata, features = blind
    renamed, moved = adata.copy(), adata.copy()
    renamed.obs_names = "x" + renamed.obs_names
    moved.obsm["spatial"] = moved.obsm["spatial"] / 4
    for other, reason in ((adata[:30], "without"), (renamed, "without"), (moved, "other coordinates")):
        with pytest.raises(InputError, match=reason):
            api.fit(other, features)
    with pytest.raises(InputError, match="no spot of this section to learn from"):
        api.evaluate(adata, features, settings={"split.protocol": "section"})
    model = api.fit(adata, features)
    with pytest.raises(InputError, match=r"another image \(image.tif\)"):
        api.super_resolve(model, adata, folder / "image.tif")
    monkeypatch.setattr(nodes, "available_bytes", lambda: MIB // 8)
    with pytest.raises(InputError, match="a larger grid.pitch_um"):
        api.super_resolve(model, adata)

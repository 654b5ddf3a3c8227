"""TissUUmaps and napari-spatialdata open a run's files as they are, where they are installed."""

import os
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest

OUTPUT = "data/07_model_output/simulated/default"


@pytest.mark.usefixtures("first_run")
def test_tissuumaps_finds_image_sites_and_genes(project: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("tissuumaps.read_h5ad")
    shutil.copy(project / OUTPUT / "super_resolved.h5ad", tmp_path)
    opened = reader.h5ad_to_tmap(str(tmp_path), "super_resolved.h5ad")
    assert [layer["name"] for layer in opened["layers"]] == ["simulated"]
    map_ = anndata.read_h5ad(tmp_path / "super_resolved.h5ad")
    scale = map_.uns["spatial"]["simulated"]["scalefactors"]["tissue_hires_scalef"]
    assert {file["expectedHeader"]["coord_factor"] for file in opened["markerFiles"]} == {pytest.approx(float(scale))}
    offered = [option["name"] for file in opened["markerFiles"] for option in file.get("dropdownOptions", [])]
    assert set(map_.var_names) <= set(offered)


@pytest.mark.usefixtures("first_run")
def test_napari_draws_the_sites_on_the_image_with_their_genes(project: Path) -> None:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    napari = pytest.importorskip("napari_spatialdata")
    import spatialdata

    stored = spatialdata.read_zarr(project / OUTPUT / "simulated.zarr")
    shown = napari.Interactive(stored, headless=True)
    for element in ("simulated_full_image", "simulated_subspots"):
        shown.add_element(element, "simulated")
    image, sites = shown._viewer.layers
    table = sites.metadata["adata"]
    assert list(table.var_names) == list(stored["table"].var_names)
    assert len(sites.data) == table.n_obs
    centres = np.array([np.mean(np.asarray(site), axis=0) for site in sites.data])[:, -2:]
    assert (centres >= 0).all() and (centres <= np.array(image.data[0].shape[-3:-1])).all()
    shown._viewer.close()

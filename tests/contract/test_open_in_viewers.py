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
    factors = [file["expectedHeader"]["coord_factor"] for file in opened["markerFiles"]]
    assert factors == pytest.approx([float(scale)] * len(factors))
    offered = {option["name"] for file in opened["markerFiles"] for option in file.get("dropdownOptions", [])}
    assert {f"Gene expression: {gene}" for gene in map_.var_names} <= offered


@pytest.mark.usefixtures("first_run")
def test_napari_draws_the_sites_on_the_image_with_their_genes(project: Path) -> None:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    napari = pytest.importorskip("napari_spatialdata")
    import spatialdata

    stored = spatialdata.read_zarr(project / OUTPUT / "simulated.zarr")
    model = napari.Interactive(stored, headless=True)._sdata_widget.viewer_model  # drawing itself needs OpenGL
    image = model.get_sdata_image(stored, "simulated_full_image", "simulated", False)
    sites = model.get_sdata_circles(stored, "simulated_subspots", "simulated", False)
    table = sites.metadata["adata"]
    assert list(table.var_names) == list(stored["table"].var_names)
    assert len(sites.data) == table.n_obs
    np.testing.assert_allclose(sites.data, stored["table"].obsm["spatial"][:, ::-1], atol=1e-3)  # y, x
    assert image.data.shape[2] == 3 and (sites.data <= image.data.shape[:2]).all()

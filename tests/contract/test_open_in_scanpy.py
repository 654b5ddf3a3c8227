from __future__ import annotations

from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
from anndata import AnnData


def test_analysis_and_map(prediction: AnnData, tmp_path: Path) -> None:
    prediction.write_h5ad(tmp_path / "prediction.h5ad")
    stored = anndata.read_h5ad(tmp_path / "prediction.h5ad")
    sc.pp.pca(stored, n_comps=2)
    sc.pp.neighbors(stored, n_neighbors=6, transformer="sklearn", method="gauss")
    assert stored.obsp["connectivities"].nnz > stored.n_obs
    axes = sc.pl.embedding(stored, basis="spatial", color="Mbp", show=False)
    offsets = axes.collections[0].get_offsets()
    assert np.allclose(np.sort(offsets[:, 0]), np.sort(stored.obsm["spatial"][:, 0]))
    plt.close("all")

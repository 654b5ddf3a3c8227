"""Real Visium metadata with made-up counts and the low-resolution image scaled up, as a Space Ranger folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tifffile
from PIL import Image

VISIUM = Path(os.environ.get("SPAMCAF_REAL_DATA") or ".") / "visium_spatial"
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def real_positions(name: str) -> pd.DataFrame:
    """Return the published position table with named columns, indexed by barcode."""
    with_header = VISIUM / name / "tissue_positions.csv"
    if with_header.exists():
        return pd.read_csv(with_header, index_col=0)
    return pd.read_csv(VISIUM / name / "tissue_positions_list.csv", header=None, names=COLUMNS, index_col=0)


def real_factors(name: str) -> dict[str, float]:
    return json.loads((VISIUM / name / "scalefactors_json.json").read_text())


@pytest.fixture(scope="session")
def real_visium(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a writer of a section's `outs` at a share of its full size; it returns the folder above, made once."""
    root = tmp_path_factory.mktemp("visium")

    def write(name: str, size: float = 0.25) -> Path:
        if not (root / name).exists():
            _write(root / name, name, size)
        return root

    return write


def _write(folder: Path, name: str, size: float) -> None:
    spatial = folder / "spatial"
    spatial.mkdir(parents=True)
    factors = real_factors(name)
    lowres = Image.open(VISIUM / name / "tissue_lowres_image.png").convert("RGB")
    width = round(lowres.width / factors["tissue_lowres_scalef"] * size)
    height = round(lowres.height / factors["tissue_lowres_scalef"] * size)
    image = np.asarray(lowres.resize((width, height), Image.Resampling.BICUBIC))
    tifffile.imwrite(
        folder / f"{name}_full_image.tif", image, photometric="rgb", tile=(512, 512), compression="deflate"
    )
    lowres.save(spatial / "tissue_lowres_image.png")
    scaled = {k: v / size if k.endswith("scalef") else v * size for k, v in factors.items()}
    (spatial / "scalefactors_json.json").write_text(json.dumps(scaled))
    positions = real_positions(name)
    positions.iloc[:, 3:] = (positions.iloc[:, 3:] * size).round().astype(int)
    positions.to_csv(spatial / "tissue_positions_list.csv", header=False)
    _write_counts(folder / "filtered_feature_bc_matrix.h5", positions.index[positions["in_tissue"] == 1])


def _write_counts(path: Path, barcodes: pd.Index, n_genes: int = 120) -> None:
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(1, 2, n_genes), (len(barcodes), n_genes)).astype(np.int32))
    names = np.array([f"GENE{i}" for i in range(n_genes)]).astype("S")
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.asarray(barcodes, dtype="S")
        for key in ("data", "indices", "indptr"):
            matrix[key] = getattr(counts, key)
        matrix["shape"] = np.array(counts.shape[::-1])
        features = matrix.create_group("features")
        features["id"] = features["name"] = names
        features["feature_type"] = np.full(n_genes, b"Gene Expression")
        features["genome"] = np.full(n_genes, b"GRCh38")

"""A small section with an image, predictions and scores that a report can be made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix

from spamcaf.reporting.gene_table import tabulate_genes

HOSTILE = "<script>alert(1)</script>"
METRICS = ["pcc_mean", "pcc_median", "pcc_top50", "spearman_mean", "pcc_depth_removed"]


@pytest.fixture
def make_section() -> Callable[..., ad.AnnData]:
    """Return a maker of AnnData: a square lattice of 100 px with genes A, B, C; `every` keeps each n-th spot."""

    def make(every: int = 1, *, sparse: bool = False, image: bool = True) -> ad.AnnData:
        xy_px = 100.0 * np.stack(np.meshgrid(np.arange(1, 9), np.arange(1, 7)), axis=-1).reshape(-1, 2)[::every]
        values = np.stack([xy_px[:, 0] / 100, xy_px[:, 1] / 100, np.zeros(len(xy_px))], axis=1).astype(np.float32)
        images = {"hires": np.full((70, 90, 3), 200, np.uint8)} if image else {}
        factors = {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 55.0}
        return ad.AnnData(
            csc_matrix(values) if sparse else values,
            obs=pd.DataFrame(index=[f"s{i}" for i in range(len(xy_px))]),
            var=pd.DataFrame(index=["A", "B", "C"]),
            obsm={"spatial": xy_px},
            uns={"spatial": {"lib": {"images": images, "scalefactors": factors}}},
        )

    return make


@pytest.fixture
def scores() -> dict[str, Any]:
    """Return a record as `build_scores` makes it, in which idw has the lower MSE."""

    def model(pcc: float, mse: float) -> dict[str, Any]:
        high = dict.fromkeys(METRICS, pcc)
        low = {"mse": mse, "mae": mse, "rmse": mse}
        rest = {"share_above_0.3": pcc, "n_undefined": 0, "variance_ratio": 0.25, "moran_ratio": None}
        return high | low | rest

    models = {
        "spamcaf": model(0.4, 0.5),
        "program_gp": model(0.35, 0.6),
        "gene_mean": model(0.0, 0.7),
        "idw": model(0.2, 0.45),
        "kriging": model(0.25, 0.55),
        "ridge": model(0.22, 0.56),
        "kriging_ridge_programs": model(0.3, 0.52),
        "depth_only": model(0.28, 0.53),
    }
    return {
        "section": "151673",
        "model": "spamcaf",
        "protocol": "random",
        "n_train": 90,
        "n_hidden": 91,
        "n_buffer": 0,
        "other_sections": [],
        "n_genes": 3,
        "models": models,
        "noise_ceiling": {"pcc_mean": 0.8, "share_reached": {"spamcaf": 0.5}},
        "reachable_limit": {"pcc_mean": 0.5, "share_reached": {"spamcaf": 0.8}},
        "coverage_90": 0.8,
        "verdict": "SpaMCAF beats the best baseline & more",
        "super_resolution": {
            "factor": 4,
            "n_sites": 364,
            "models": {
                "spamcaf": model(0.4, 0.5) | {"pcc_depth_removed": None},
                "nearest_spot": model(0.5, 0.4) | {"pcc_depth_removed": None},
            },
            "verdict": "SpaMCAF does NOT beat Nearest spot",
        },
    }


@pytest.fixture
def genes(gene_scores: pd.DataFrame) -> pd.DataFrame:
    """Return the table of genes made of `gene_scores`, compared with idw."""
    measured = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 2.0]], np.float32)
    expression = ad.AnnData(measured, var=pd.DataFrame(index=["A", "B", HOSTILE]))
    return tabulate_genes(gene_scores, "spamcaf", "idw", expression)


@pytest.fixture
def gene_scores() -> pd.DataFrame:
    """Return scores of three genes, one with a hostile name, for spamcaf and idw."""
    rows = [("spamcaf", "A", 0.5), ("spamcaf", "B", 0.7), ("spamcaf", HOSTILE, 0.1), ("idw", "A", 0.9)]
    return pd.DataFrame(rows, columns=["model", "gene", "pearson"]).assign(spearman=0.1, rmse=0.2, undefined=False)

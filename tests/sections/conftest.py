"""A small Visium-like section with all metadata that the checks look at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

PITCH_PX = 140.0


@pytest.fixture
def make_section() -> Callable[..., AnnData]:
    """Return a maker of hexagonal sections, x from 500 px and y from 200 px, so that swapped axes show."""

    def make(n_rows: int = 8, n_columns: int = 10, n_genes: int = 30, seed: int = 0) -> AnnData:
        rng = np.random.default_rng(seed)
        row, column = (a.ravel() for a in np.mgrid[:n_rows, :n_columns])
        column = 2 * column + row % 2
        obs = pd.DataFrame(
            {"in_tissue": 1, "array_row": row, "array_col": column}, index=[f"spot{i}-1" for i in range(len(row))]
        )
        rates = rng.gamma(1.0, 4.0, (len(row), n_genes))
        counts = rng.poisson(rates).astype(np.int32)
        counts[:, 0] = 1
        section = AnnData(csr_matrix(counts), obs=obs)
        section.var_names = [f"gene{i}" for i in range(n_genes)]
        section.var["gene_ids"] = [f"ENSG{i}" for i in range(n_genes)]
        xy = np.column_stack([column * PITCH_PX / 2, row * PITCH_PX * np.sqrt(3) / 2])
        section.obsm["spatial"] = xy + np.array([500.0, 200.0])
        metadata = {"name": "S1", "lattice": "hexagonal", "pitch_um": 100.0, "mpp": 100 / PITCH_PX, "n_unmatched": 0}
        section.uns["section"] = metadata
        return section

    return make

"""A small section, its slide and a prediction as the pipeline makes it; wider than high, so that swapped axes show."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.reporting.prediction import build_prediction
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.sites import lay_grid

PITCH_PX, MPP, SUBDIVIDE = 100.0, 1.0, 2
ROWS_PX, COLUMNS_PX = 1300, 2300
PX_PER_THUMBNAIL_PX = 4.0
GENES = ["Mbp", "Plp1", "Snap25"]


@pytest.fixture(autouse=True)
def _no_windows() -> None:
    mpl.use("Agg")


@pytest.fixture(scope="session")
def slide() -> Slide:
    """Return an image whose red grows with x and whose green grows with y."""
    image = np.empty((ROWS_PX, COLUMNS_PX, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, COLUMNS_PX)[None, :]
    image[..., 1] = np.linspace(0, 255, ROWS_PX)[:, None]
    image[..., 2] = 7
    return Slide(ArrayPixels(image, "ramp"), "ramp")


@pytest.fixture
def section() -> AnnData:
    """Return 20 x 9 spots on a hexagonal lattice, without pictures."""
    row, column = (a.ravel() for a in np.mgrid[:9, :20])
    column = 2 * column + row % 2
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": row, "array_col": column}, index=[f"SPOT{i}-1" for i in range(len(row))]
    )
    section = AnnData(np.ones((len(row), len(GENES)), np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    section.obsm["spatial"] = np.column_stack([150 + column * PITCH_PX / 2, 120 + row * PITCH_PX * np.sqrt(3) / 2])
    section.uns["section"] = {
        "name": "block A (1)",
        "lattice": "hexagonal",
        "pitch_um": 100.0,
        "spot_diameter_um": 55.0,
        "mpp": MPP,
    }
    return section


@pytest.fixture
def prediction(section: AnnData, slide: Slide) -> AnnData:
    """Return a prediction whose first gene is x / 1000 and whose second is y / 1000."""
    sites = lay_grid(section, lattice_of(section), SUBDIVIDE)
    mean = np.column_stack([sites["x_px"] / 1000, sites["y_px"] / 1000, np.ones(len(sites))]).astype(np.float32)
    genes = pd.DataFrame({"gene_ids": [f"ENS{i}" for i in range(len(GENES))]}, index=GENES)
    return build_prediction(
        mean,
        np.full_like(mean, 0.5),
        genes,
        sites,
        np.arange(len(sites)),
        section,
        slide.thumbnail(PX_PER_THUMBNAIL_PX),
        PX_PER_THUMBNAIL_PX,
        SUBDIVIDE,
        {"seed": 1},
    )

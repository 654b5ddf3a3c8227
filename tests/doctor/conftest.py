"""Run requests for tests: catalog entries return a value, or raise it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spamcaf.datasets.inputs import OtherSections, ReferencesDataset
from spamcaf.doctor.check import RunRequest
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.parameters import RunSettings

PITCH_PX = 100.0
SIDE = 12
IMAGE_PX = 1300


class Entry:
    """A catalog entry that loads a value, or raises it where it is an exception."""

    def __init__(self, value: object) -> None:
        self.value = value

    def load(self) -> object:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def make_section(n_genes: int = 40) -> AnnData:
    rng = np.random.default_rng(0)
    row, column = (a.ravel() for a in np.mgrid[:SIDE, :SIDE])
    obs = pd.DataFrame(
        {"in_tissue": 1, "array_row": row, "array_col": column}, index=[f"spot{i}" for i in range(SIDE**2)]
    )
    section = AnnData(csr_matrix(rng.poisson(rng.gamma(1, 4, (SIDE**2, n_genes))).astype(np.int32)), obs=obs)
    section.var_names = [f"gene{i}" for i in range(n_genes)]
    section.var["gene_ids"] = [f"ENSG{i}" for i in range(n_genes)]
    section.obsm["spatial"] = np.column_stack([column, row]) * PITCH_PX + 100
    section.uns["section"] = {
        "name": "S1", "lattice": "square", "pitch_um": 200.0, "spot_diameter_um": 100.0, "n_unmatched": 0
    }  # fmt: skip
    # of a square of tissue no outline tells the orientation, but the image that came with the spots does
    section.uns["spatial"] = {"S1": {"images": {"lowres": tissue_image()[::5, ::5]}, "scalefactors": {}}}
    return section


def tissue_image(n_columns: int = IMAGE_PX) -> NDArray[np.uint8]:
    """Stained tissue with a margin of glass, under all spots."""
    image = np.full((IMAGE_PX, n_columns, 3), 240, np.uint8)
    image[50:-50, 50:-50] = (190, 110, 160)
    return image


def make_slide() -> Slide:
    return Slide(ArrayPixels(tissue_image(), "f"), "S1.png")


@pytest.fixture
def image() -> Callable[..., NDArray[np.uint8]]:
    return tissue_image


@pytest.fixture
def make_request(tmp_path: Path) -> Callable[..., RunRequest]:
    """Return a maker of `RunRequest`: catalog entries by name, and settings."""

    def make(settings: dict[str, Any] | None = None, can_download: bool = False, **entries: object) -> RunRequest:
        none = OtherSections((), tmp_path, tmp_path)
        values = {"raw_section": make_section(), "slide": make_slide(), "other_sections": none, **entries}
        catalog: Any = {name: Entry(value) for name, value in values.items()}
        layer = str(tmp_path / "data/02_intermediate")
        catalog["references"] = ReferencesDataset(filepath=layer, names=None, section="S1", raw_root=str(tmp_path))
        chosen = RunSettings.model_validate({"panel": {"n_genes": 20}, **(settings or {})})
        return RunRequest(chosen, catalog, tmp_path, "--env e --params section=S1", can_download)

    return make

"""A Visium section as Space Ranger 1 to 4 wrote it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io import AbstractDataset, DatasetError

from spamcaf.datasets.space_ranger_folder import find_outs, is_outs, spatial_folder
from spamcaf.datasets.space_ranger_images import read_scalefactors, read_thumbnails
from spamcaf.datasets.space_ranger_matrix import read_matrix
from spamcaf.datasets.space_ranger_positions import read_positions
from spamcaf.errors import InputError
from spamcaf.names import FACTS, SPATIAL, Fact, Position, ScaleFactor

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

PITCH_UM = 100.0
SPOT_UM = 55.0
THEORETICAL_SPOT_UM = 65.0
"""What `spot_diameter_fullres` measures, by 10x's definition: wider than the printed spot."""
GEM_SUFFIX = "-1"


class SpaceRangerSectionDataset(AbstractDataset["AnnData", "AnnData"]):
    """Read one Visium section; read-only.

    `filepath` is a Space Ranger `outs` folder, or a folder with one folder per section; `section` names the section.
    Loads an AnnData with raw counts (CSR int32), all spots of the matrix that have a position, on and off the tissue;
    `obsm["spatial"]` (x, y) full-resolution pixels; the facts of the array (100 um hexagonal lattice, 55 um spots,
    micrometres per pixel); scale factors and thumbnails in `uns["spatial"][<section>]`. Rows are joined by barcode;
    barcodes without a position are counted in the facts.
    """

    def __init__(self, *, filepath: str, section: str | int, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self._section = str(section)
        self.metadata = metadata

    def load(self) -> AnnData:
        outs = find_outs(self._folder, self._section)
        spatial = spatial_folder(outs)
        factors = read_scalefactors(spatial)
        section = _join(read_matrix(outs, self._section), read_positions(spatial), outs)
        section.uns[FACTS].update(
            {
                Fact.NAME.value: self._section,
                Fact.LATTICE.value: "hexagonal",
                Fact.PITCH_UM.value: PITCH_UM,
                Fact.SPOT_UM.value: SPOT_UM,
                Fact.MPP.value: THEORETICAL_SPOT_UM / factors[ScaleFactor.SPOT],
            }
        )
        section.uns[SPATIAL] = {self._section: {"images": read_thumbnails(spatial), "scalefactors": factors}}
        return section

    def save(self, data: AnnData) -> None:
        raise DatasetError("Raw sections are read-only. Save under another catalog entry.")

    def _exists(self) -> bool:
        return is_outs(self._folder, self._section)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._folder), "section": self._section}


def _join(matrix: AnnData, positions: pd.DataFrame, outs: Path) -> AnnData:
    placed = matrix.obs_names.isin(positions.index)
    if not placed.any():
        raise _no_overlap(matrix.obs_names, positions.index, outs)
    section = matrix[placed].copy()
    where = positions.loc[section.obs_names]
    section.obs = where[[Position.IN_TISSUE, Position.ARRAY_ROW, Position.ARRAY_COL]].rename_axis(None)
    section.obsm[SPATIAL] = where[[Position.PXL_COL, Position.PXL_ROW]].to_numpy(np.float64)
    section.uns[FACTS] = {Fact.UNMATCHED.value: int((~placed).sum())}
    return section


def _no_overlap(in_matrix: pd.Index, in_positions: pd.Index, outs: Path) -> InputError:
    bare = {name.removesuffix(GEM_SUFFIX) for name in in_positions}
    differs_by_suffix = any(name.removesuffix(GEM_SUFFIX) in bare for name in in_matrix)
    return InputError(
        f"no barcode in common in {outs}: {in_matrix[0]} in the matrix, {in_positions[0]} in the position file.",
        "the same barcodes.",
        f"Does one of the files lack the '{GEM_SUFFIX}' at the end of its barcodes? "
        + ("They agree without it: add it." if differs_by_suffix else "If not, they are of two sections."),
    )

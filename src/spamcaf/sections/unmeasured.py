"""A section that was never measured: its sites are laid where there is tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import FACTS, SPATIAL, Fact, Obs
from spamcaf.sections.grid import SITE_ID, SUB_INDEX, X_PX, Y_PX

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

MIN_SITES = 20
"""Pictures are counted from the mean of the section's: a handful has no mean to speak of."""


def settle_mpp(stated: float | None, by_image: float | None) -> float:
    """Return micrometres per pixel: what the user states, else what the image says; raise InputError without either."""
    mpp = stated or by_image
    if mpp is None:
        raise InputError(
            "an image that does not say how large a pixel is, and no spots to tell it from.",
            "micrometres per pixel of the image.",
            "State it: --params transfer.mpp=0.5.",
        )
    return float(mpp)


def lay_sites(size_px: tuple[int, int], mpp: float, pitch_um: float) -> pd.DataFrame:
    """Return sites on a square lattice of `pitch_um` over an image of `size_px` (rows, columns), as `lay_grid` does.

    Each is a parent of its own (sub index 0), named by row and column.
    """
    import pandas as pd

    pitch_px = pitch_um / mpp
    rows, columns = (np.arange(max(int(extent / pitch_px), 1)) for extent in size_px)
    row, column = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    names = [f"r{i:04d}c{j:04d}" for i, j in zip(row, column, strict=True)]
    return pd.DataFrame(
        {
            SITE_ID: names,
            Obs.PARENT.value: names,
            SUB_INDEX: np.zeros(len(names), np.int64),
            X_PX: (column + 0.5) * pitch_px,
            Y_PX: (row + 0.5) * pitch_px,
            Obs.ARRAY_ROW.value: row,
            Obs.ARRAY_COL.value: column,
        }
    )


def as_section(sites: pd.DataFrame, name: str, mpp: float, pitch_um: float) -> AnnData:
    """Return the sites as a section without counts: places and facts, no genes.

    Raises InputError when there are too few.
    """
    from anndata import AnnData

    if len(sites) < MIN_SITES:
        raise InputError(
            f"{len(sites)} sites on tissue, {pitch_um:g} um apart.",
            f"at least {MIN_SITES}.",
            "Check the image and its micrometres per pixel, or lower transfer.pitch_um.",
        )
    obs = sites.set_index(SITE_ID)[[Obs.ARRAY_ROW.value, Obs.ARRAY_COL.value]].rename_axis(None)
    section = AnnData(obs=obs.assign(**{Obs.IN_TISSUE.value: 1}))
    section.obsm[SPATIAL] = _places(sites)
    section.uns[FACTS] = {
        Fact.NAME.value: name,
        Fact.LATTICE.value: "square",
        Fact.PITCH_UM.value: float(pitch_um),
        Fact.SPOT_UM.value: float(pitch_um),
        Fact.MPP.value: float(mpp),
    }
    return section


def _places(sites: pd.DataFrame) -> NDArray[np.float64]:
    return sites[[X_PX, Y_PX]].to_numpy(np.float64)

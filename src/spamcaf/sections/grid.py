"""The sites between the spots: the fitted lattice, subdivided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.names import SPATIAL, Obs

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spamcaf.sections.lattice import Lattice

SITE_ID, X_PX, Y_PX = "site_id", "x_px", "y_px"
SUB_INDEX = Obs.SUB_INDEX.value


def lay_grid(section: AnnData, lattice: Lattice, subdivide: int) -> pd.DataFrame:
    """Give each spot `subdivide` x `subdivide` sites: itself (s0), and the points that divide its lattice cell.

    Returns a table with `site_id` (`<barcode>_s<k>`), parent, sub index, x and y in full-resolution pixels, and
    array_row, array_col on the subdivided lattice (both multiplied by `subdivide`, so that they stay whole). Cells tile
    the plane, so sites are unique and the factor is exact: k^2 sites per spot, before any is dropped off the tissue.
    Offsets come from the fitted lattice and are added to the spot's own position.
    """
    import pandas as pd

    along = np.array([(i, j) for j in range(subdivide) for i in range(subdivide)])
    n_spots, n_sub = section.n_obs, len(along)
    xy = section.obsm[SPATIAL][:, None, :] + (along / subdivide) @ lattice.basis_px
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)[:, None, :] * subdivide
    index = index + along @ lattice.index_steps
    parent = np.repeat(section.obs_names.to_numpy(str), n_sub)
    sub = np.tile(np.arange(n_sub), n_spots)
    return pd.DataFrame(
        {
            SITE_ID: [site_id(p, s) for p, s in zip(parent, sub, strict=True)],
            Obs.PARENT: parent,
            Obs.SUB_INDEX: sub,
            X_PX: xy[..., 0].ravel(),
            Y_PX: xy[..., 1].ravel(),
            Obs.ARRAY_ROW: index[..., 1].ravel(),
            Obs.ARRAY_COL: index[..., 0].ravel(),
        }
    )


def site_id(barcode: str, sub_index: int) -> str:
    """Name a site so that Loupe accepts it."""
    return f"{barcode}_s{sub_index}"

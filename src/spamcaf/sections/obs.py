"""What a section says of its spots, whatever type it has in the file: numbers, text, categories or booleans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import SPATIAL, Obs
from spamcaf.sections.spread import require_finite

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


def coordinates_of(section: AnnData) -> NDArray[np.float64]:
    """Return (x, y) of every spot (spot, 2), in pixels; raise InputError unless they are finite numbers."""
    if SPATIAL not in section.obsm:
        keys = ", ".join(section.obsm.keys()) or "nothing"
        raise InputError(f"no coordinates, obsm holds {keys}.", f"obsm['{SPATIAL}'].", "Check the section's file.")
    try:
        xy = np.asarray(section.obsm[SPATIAL], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"coordinates that are no numbers ({error}).", "x and y in pixels.", "Check the position file."
        ) from error
    if xy.ndim != 2 or xy.shape[1] != 2:  # noqa: PLR2004
        raise InputError(f"coordinates of shape {xy.shape}.", "x and y of every spot.", "Check the section's file.")
    require_finite(xy)
    return xy


def in_tissue_of(section: AnnData) -> NDArray[np.bool_]:
    """Return which spots the source says are under tissue."""
    values = _whole_numbers(section, Obs.IN_TISSUE)
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{Obs.IN_TISSUE} of {values.max()}.", "0 or 1.", "Check the position file.")
    return values == 1


def index_of(section: AnnData) -> NDArray[np.int64] | None:
    """Return (array_col, array_row) of every spot (spot, 2), or None where the source has none."""
    columns = (Obs.ARRAY_COL, Obs.ARRAY_ROW)
    if not all(column in section.obs for column in columns):
        return None
    return np.column_stack([_whole_numbers(section, column) for column in columns])


def _whole_numbers(section: AnnData, column: Obs) -> NDArray[np.int64]:
    import pandas as pd

    if column not in section.obs:
        raise InputError(f"no column {column} of obs.", "a number for every spot.", "Check the section's file.")
    text = section.obs[column].astype("string").str.lower().replace({"true": "1", "false": "0"})
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~(np.isfinite(numbers) & (numbers % 1 == 0))
    if wrong.any():
        raise InputError(
            f"{column} '{section.obs[column].iloc[int(wrong.argmax())]}' of {section.obs_names[wrong.argmax()]}.",
            "a whole number for every spot.",
            "Check the position file.",
        )
    return numbers.astype(np.int64)

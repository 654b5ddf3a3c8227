"""What the `obs` and `obsm` of an AnnData say of its spots: place, tissue and array indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.datasets.layouts.texts import as_texts
from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.names import SPATIAL, Obs, Position

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COORDINATE_KEYS = (SPATIAL, "X_spatial")
PIXEL_COLUMNS = [Position.PXL_COL.value, Position.PXL_ROW.value]  # x, y
IN_TISSUE = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
N_SHOWN = 5


def spot_columns(obs: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return in_tissue (0 or 1; 1 where `obs` does not say), and array_row and array_col where both are whole.

    Names are text, also where the file has numbers. Raises InputError for a barcode that is missing or occurs twice,
    and for an in_tissue that is neither yes nor no.
    """
    import pandas as pd

    names = pd.Index(as_texts(obs.index).to_numpy())
    if (names == "").any():
        raise InputError(
            f"{(names == '').sum()} of {len(names)} spots without a name in {source}.",
            "a barcode for each.",
            "Name every spot, and write the file again.",
        )
    if not names.is_unique:
        raise InputError(
            f"barcode {names[names.duplicated()][0]} twice in {source}.",
            "each once.",
            "Give every spot its own name (obs_names_make_unique hides what belongs where), and write the file again.",
        )
    columns = pd.DataFrame({Obs.IN_TISSUE.value: _in_tissue(obs, source)}, index=names)
    index = _array_index(obs)
    if index is not None:
        columns[[Obs.ARRAY_ROW.value, Obs.ARRAY_COL.value]] = index
    return columns


def stated_coordinates(obs: pd.DataFrame, obsm: Mapping[str, Any], source: str) -> NDArray[np.float64]:
    """Return (x, y) in full-resolution pixels, (spot, 2); raise InputError where there are none."""
    key = next((key for key in COORDINATE_KEYS if key in obsm), None)
    if key is None and not set(PIXEL_COLUMNS) <= set(obs.columns):
        raise InputError(
            f"no spatial coordinates in {source}: obsm has {', '.join(obsm) or 'nothing'}.",
            f"obsm['{SPATIAL}'] with x and y in full-resolution pixels, or obs columns {' and '.join(PIXEL_COLUMNS)}.",
            "Add the spots' pixel coordinates, and write the file again.",
        )
    return as_coordinates(obs[PIXEL_COLUMNS] if key is None else obsm[key], source)


def as_coordinates(values: Any, source: str) -> NDArray[np.float64]:  # noqa: ANN401  an array, a frame or sparse
    """Return the first two columns as float64; raise InputError where they are missing or not numbers."""
    try:
        xy = np.asarray(values.toarray() if hasattr(values, "toarray") else values)[:, :2].astype(np.float64)
    except (ValueError, TypeError, IndexError) as error:
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"coordinates of {source} that are no numbers ({error}).", "x and y.", "Correct them."
        ) from error
    if xy.shape[1] < 2:  # noqa: PLR2004  x and y
        raise InputError(f"one coordinate per spot in {source}.", "two, x and y.", "Correct the coordinates.")
    n_missing = int((~np.isfinite(xy)).any(axis=1).sum())
    if n_missing:
        raise InputError(
            f"{n_missing} of {len(xy)} spots of {source} without coordinates (NaN).",
            "x and y for every spot.",
            "Join positions to spots by barcode, drop spots that have none, and write the file again.",
        )
    return xy


def _in_tissue(obs: pd.DataFrame, source: str) -> NDArray[np.int64]:
    if Obs.IN_TISSUE not in obs:
        return np.ones(len(obs), np.int64)
    texts = as_texts(obs[Obs.IN_TISSUE]).str.strip().str.lower()
    values = texts.map(IN_TISSUE)
    if values.isna().any():
        raise InputError(
            f"'{texts[values.isna()].iloc[0]}' as in_tissue of {int(values.isna().sum())} spots of {source}.",
            "1 or 0, True or False.",
            "Correct the column, or remove it if all spots are on tissue.",
        )
    return values.to_numpy(np.int64)


def _array_index(obs: pd.DataFrame) -> NDArray[np.int64] | None:
    """Return (array_row, array_col) per spot, None unless all are whole numbers."""
    import pandas as pd

    if not {Obs.ARRAY_ROW, Obs.ARRAY_COL} <= set(obs.columns):
        return None
    columns = [pd.to_numeric(obs[name].astype(object), errors="coerce") for name in (Obs.ARRAY_ROW, Obs.ARRAY_COL)]
    index = np.column_stack([column.to_numpy(np.float64, na_value=np.nan) for column in columns])
    return index.astype(np.int64) if np.isfinite(index).all() and not (index % 1).any() else None

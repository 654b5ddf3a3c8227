"""Names and ids as text, whatever type a file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def as_texts(values: pd.Index | pd.Series) -> pd.Series:
    """Return the values as text in the same order, "" where one is missing.

    Numbers, categories and bytes are names, too: 1 and 1.0 become "1", b"A" becomes "A"; text stays as it is, so that
    "0001" and "NA" are names of their own.
    """
    import pandas as pd

    return pd.Series([_as_text(value) for value in values.to_numpy(object)], dtype=object)


def _as_text(value: Any) -> str:  # noqa: ANN401  whatever a file holds there
    import pandas as pd

    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if pd.isna(value):
        return ""
    # a column of whole numbers with one missing comes as floats
    return str(int(value)) if isinstance(value, float | np.floating) and value.is_integer() else str(value)

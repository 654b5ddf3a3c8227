"""Values as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np


def plain(value: Any) -> Any:  # noqa: ANN401  any value in, its JSON form out
    """Return `value` made of dict, list, str, int, float, bool and None only.

    numpy scalars and arrays become Python's, tuples lists, paths and enum members text. NaN and infinity, which JSON
    does not know, become None. What has no such form is returned as it is, for the JSON writer to refuse.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, str | PurePath) else value

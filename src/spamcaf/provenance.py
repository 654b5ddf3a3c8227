"""Provenance records of results: hashes of settings and names, and values in the form that JSON can hold."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf import __version__

if TYPE_CHECKING:
    from pydantic import BaseModel


def plain(value: Any) -> Any:  # noqa: ANN401  any value in, its JSON form out
    """Return `value` as dict, list, str, int, float, bool and None; what has no such form stays as it is.

    numpy scalars and arrays become Python's, tuples lists, paths and enum members text; NaN and infinity, which JSON
    does not know, become None.
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


def without_home(value: Any) -> Any:  # noqa: ANN401  any value in, the same out
    """Return texts, also those in lists and mappings, with `~` in place of the user's home folder.

    What is stored is passed on, and names no account. A path that begins with `~` is understood wherever one is typed.
    """
    if isinstance(value, Mapping):
        return {without_home(key): without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    home = str(Path.home())
    if not isinstance(value, str) or home not in value or len(home) == 1:
        return value
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", value)


def configuration_hash(*settings: BaseModel) -> str:
    """Return the hash (16 hex digits) of whole settings objects, never of hand-picked fields."""
    return plain_hash([s.model_dump(mode="json") for s in settings])


def plain_hash(value: Any) -> str:  # noqa: ANN401  plain data of any kind
    """Return the hash (16 hex digits) of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def names_hash(names: Iterable[str]) -> str:
    """Return the hash (16 hex digits) of a set of names, whatever their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def provenance_record(**facts: Any) -> dict[str, Any]:  # noqa: ANN401  plain data of any kind
    """Return the facts with the version of the package."""
    return {"package_version": __version__, **facts}


def as_plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return Kedro's parameters, groups of which may be settings objects, as plain data without the home folder."""
    # objects know how to dump themselves; pydantic itself is not needed for that
    dumped = {name: v.model_dump(mode="json") if hasattr(v, "model_dump") else v for name, v in parameters.items()}
    return without_home(plain(dumped))  # type: ignore[no-any-return]


_PACKAGES = ("kedro", "torch", "numpy", "scipy", "scikit-learn", "anndata", "timm")


def run_record(seed: int) -> dict[str, Any]:
    """Return date, command, seed and versions of the run that is under way."""
    program, *words = sys.argv
    return {
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "command": without_home(shlex.join([Path(program).name, *words])),
        "seed": seed,
        "spamcaf": __version__,
        "Python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }

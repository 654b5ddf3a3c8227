"""Names and paths as they were typed: YAML reads `1_1` as 11, `017` as 15, `1e3` as 1000.0 and `true` as a yes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from spamcaf.errors import InputError
from spamcaf.parameters import GENE_LISTS, RUN_CHOICES

LISTS = ("other_sections", *GENE_LISTS)
TEXTS = (*RUN_CHOICES, *GENE_LISTS)
MAY_BE_NULL = ("image", "bin_um", "backbone_source")
LEADING_ZEROS = re.compile(r"^0+(?=[0-9]+$)")


def as_typed(item: str) -> str:
    """Return an item of --params, `key=value`, quoted where YAML would read a name, a path or a gene as a number.

    A value that is quoted already stays as it is, and so does `null` where a choice may be left out. Other settings
    are numbers or words of YAML; only a leading 0 is taken away, which would make them octal.
    """
    key, equals, value = (part.strip() for part in item.partition("="))
    if not equals:
        return item
    if key not in TEXTS:
        return f"{key}={LEADING_ZEROS.sub('', value)}"
    if key in LISTS and re.fullmatch(r"\[.*\]", value):
        value = value[1:-1].strip()
        if not value:
            return f"{key}=[]"
    if value[:1] in {"'", '"'} or (key in MAY_BE_NULL and value in {"", "null"}):
        return f"{key}={value}"
    doubled = value.replace("'", "''")
    return f"{key}='{doubled}'"


def as_written(loaded: Any, written: Any, place: str = "") -> Any:  # noqa: ANN401  whatever a file holds
    """Return `loaded` with the names, paths and genes as the file has them.

    Parameters
    ----------
    loaded
        What the configuration's YAML loader made of a file.
    written
        The same file with every scalar as its text (yaml.BaseLoader).
    place
        Dotted key of both.
    """
    if isinstance(loaded, dict) and isinstance(written, dict):
        return {
            key: as_written(value, written.get(str(key)), f"{place}.{key}" if place else str(key))
            for key, value in loaded.items()
        }
    if place not in TEXTS:
        return loaded
    if isinstance(loaded, list) and isinstance(written, list):
        return [_either(*pair) for pair in zip(loaded, written, strict=True)]
    if loaded is None and place in {*MAY_BE_NULL, *LISTS}:
        return None
    return _either(loaded, written)


def _either(loaded: Any, written: Any) -> Any:  # noqa: ANN401  whatever a file holds
    return written if isinstance(written, str) and not isinstance(loaded, str) else loaded


def texts_of(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run was given, its choices as texts; raise InputError for one whose text cannot be known."""
    return {name: _text_of(name, value) if name in RUN_CHOICES else value for name, value in choices.items()}


def _text_of(name: str, value: Any) -> Any:  # noqa: ANN401  whatever a session was given
    if value is None and name in {*MAY_BE_NULL, *LISTS}:
        return None
    if name in LISTS and isinstance(value, list | tuple):
        return [_text_of(name, part) for part in value]
    if isinstance(value, float) and name == "bin_um":
        return f"{value:g}"
    is_text = isinstance(value, str | PurePath) or (isinstance(value, int) and not isinstance(value, bool))
    if not is_text:
        raise InputError(
            f"{name} = {value!r}, which is no text.",
            "the text as it is written: YAML reads 1e3 as 1000.0 and true as a yes.",
            f"Quote it: --params \"{name}='...'\".",
        )
    if "${" in str(value) or str(value) == "???":
        raise InputError(
            f"{name} = {value}.", "a text without place-holders.", "Fill in what stands between the braces."
        )
    return str(value)

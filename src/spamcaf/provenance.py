"""What a result was made from and with, as plain data."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from spamcaf import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel


def text_hash(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def configuration_hash(*settings: BaseModel) -> str:
    """Return the hash of whole settings objects, never of hand-picked fields."""
    return text_hash(json.dumps([s.model_dump(mode="json") for s in settings], sort_keys=True))


def names_hash(names: Iterable[str]) -> str:
    """Return the hash of a set of names, whatever their order."""
    return text_hash("\n".join(sorted(names)))


def certificate(**facts: Any) -> dict[str, Any]:  # noqa: ANN401  plain data of any kind
    """Return the facts with the version of the package."""
    return {"package_version": __version__, **facts}

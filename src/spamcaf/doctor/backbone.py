"""Can the backbone's weights be had?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from spamcaf.backbones.load import BackboneSpec
from spamcaf.backbones.weights import TIMEOUT_S
from spamcaf.datasets.backbone import BackboneDataset
from spamcaf.doctor.check import Check, passed, warned
from spamcaf.doctor.need import in_words

if TYPE_CHECKING:
    from spamcaf.backbones.weights import Weights
    from spamcaf.doctor.configuration import Asked

NAME = "backbone"


def read_spec(asked: Asked) -> BackboneSpec | None:
    """Return the entry of the backbone asked for, None where the catalog's entry is of another type."""
    dataset = asked.catalog["backbone"]
    return dataset.spec() if isinstance(dataset, BackboneDataset) else None


def check_backbone(asked: Asked) -> tuple[Check, None]:
    """Look for the weights in their package, folder or the hub's cache, else ask the hub for their header alone."""
    dataset = asked.catalog["backbone"]
    if not isinstance(dataset, BackboneDataset):
        fix = "None, if a run can load it."
        return warned(NAME, f"a {type(dataset).__name__}, which this command does not know", fix), None
    spec, weights = dataset.spec(), dataset.probe(TIMEOUT_S)
    found = f"{spec.architecture}, {_where(weights)}, licence {spec.licence}"
    if is_non_commercial(spec.licence):
        return warned(NAME, found, "None for research: the licence forbids commercial use."), None
    return passed(NAME, found), None


def is_non_commercial(licence: str) -> bool:
    """Tell whether a licence's short name holds NC, or says so in words."""
    return "NC" in re.split(r"[^A-Z]+", licence.upper()) or "non-commercial" in licence.lower()


def _where(weights: Weights) -> str:
    size = "size unknown" if weights.n_bytes is None else in_words(weights.n_bytes)
    if weights.is_here:
        return f"weights at {weights.place} ({size})"
    return f"weights on the hub, to be downloaded by the first run, access granted ({size})"

"""Scale factors and thumbnails of a Space Ranger folder."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.layouts.listing import listing
from spamcaf.errors import InputError
from spamcaf.names import ScaleFactor, SpaceRanger

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

THUMBNAILS = {"hires": (SpaceRanger.HIRES, ScaleFactor.HIRES), "lowres": (SpaceRanger.LOWRES, ScaleFactor.LOWRES)}


def read_scalefactors(spatial: Path) -> dict[str, float]:
    """Return the scale factors that Space Ranger wrote; raise InputError when they are missing or make no sense."""
    path = spatial / SpaceRanger.SCALEFACTORS
    if not path.is_file():
        raise InputError(
            f"no {path.name} in {spatial}, but {listing(spatial)}.",
            "the scale factors, without which the size of a pixel is unknown.",
            "Copy the file from the Space Ranger output of this section.",
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        factors = {key.value: float(record[key]) for key in ScaleFactor if key in record}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "numbers by name.", "Copy the file again.") from error
    if not all(np.isfinite(value) and value > 0 for value in factors.values()) or ScaleFactor.SPOT not in factors:
        raise InputError(f"{factors} in {path}.", f"{ScaleFactor.SPOT}, and all above 0.", "Copy the file again.")
    return factors


def read_thumbnails(spatial: Path, factors: dict[str, float]) -> dict[str, NDArray[np.uint8]]:
    """Return the thumbnails of known scale that can be read, (row, column, 3) uint8; warn of the others."""
    from PIL import Image

    images: dict[str, NDArray[np.uint8]] = {}
    for name, (file, factor) in THUMBNAILS.items():
        if factor not in factors:
            logger.warning("No %s in %s: maps are drawn without %s", factor.value, spatial, file.value)
            continue
        try:
            with Image.open(spatial / file) as image:
                images[name] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            logger.warning("No %s in %s (%s): maps are drawn without it", file.value, spatial, type(error).__name__)
    return images

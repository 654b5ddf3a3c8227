"""Scale factors and thumbnails of a Space Ranger folder."""

from __future__ import annotations

import io
import json
import logging
import re
import zlib
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.layouts.damage import reading
from spamcaf.datasets.layouts.space_ranger.packed import unpacked
from spamcaf.errors import InputError
from spamcaf.names import ScaleFactor, SpaceRanger

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from spamcaf.datasets.layouts.space_ranger.sample import Sample

logger = logging.getLogger(__name__)

THUMBNAILS = {"hires": (SpaceRanger.HIRES, ScaleFactor.HIRES), "lowres": (SpaceRanger.LOWRES, ScaleFactor.LOWRES)}
DIAMETERS = (ScaleFactor.SPOT, ScaleFactor.FIDUCIAL)


def read_scalefactors(sample: Sample) -> dict[str, float]:
    """Return the scale factors that Space Ranger wrote; raise InputError when they are missing or make no sense.

    A diameter that is missing, null or 0 is left out: the array's pitch is known without it.
    """
    paths = sample.files(re.escape(SpaceRanger.SCALEFACTORS) + r"(?:\.gz)?")
    if not paths:
        raise sample.missing(
            SpaceRanger.SCALEFACTORS, "the scale factors, without which the size of a pixel is unknown."
        )
    path = paths[0]
    with reading(path, "numbers by name"):
        record = json.loads(unpacked(path).decode("utf-8-sig"))
        if not isinstance(record, dict):
            raise ValueError("it holds no numbers by name")
    stated = {key: record[key] for key in ScaleFactor if record.get(key) is not None}
    stated = {key: value for key, value in stated.items() if key not in DIAMETERS or value != 0}
    return {key.value: _positive(key, value, path) for key, value in stated.items()}


def _positive(key: ScaleFactor, value: object, path: Path) -> float:
    try:
        number = np.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not (np.isfinite(number) and number > 0):
        raise InputError(f"{key.value} = {value!r} in {path}.", "a number above 0.", "Copy the file again.")
    return number


def read_thumbnails(sample: Sample, factors: dict[str, float]) -> dict[str, NDArray[np.uint8]]:
    """Return the thumbnails of known scale that can be read, (row, column, 3) uint8; warn of the others."""
    from PIL import Image

    images: dict[str, NDArray[np.uint8]] = {}
    for name, (file, factor) in THUMBNAILS.items():
        if factor not in factors:
            logger.warning("No %s in %s: maps are drawn without %s", factor.value, sample.folder, file.value)
            continue
        path = next(iter(sample.files(re.escape(file) + r"(?:\.gz)?")), None)
        if path is None:
            logger.warning("No %s in %s: maps are drawn without it", file.value, sample.places[0])
            continue
        try:
            with Image.open(io.BytesIO(unpacked(path))) as image:
                images[name] = np.asarray(image.convert("RGB"))
        except (OSError, EOFError, ValueError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
            logger.warning("%s cannot be read (%s): maps are drawn without it", path, type(error).__name__)
    return images

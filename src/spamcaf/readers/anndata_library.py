"""What an AnnData says of its section: `uns["spatial"]`, thumbnails, scale factors, places and array indices."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.names import PROVENANCE, SPATIAL, Obs, Position, ScaleFactor, SectionField
from spamcaf.readers.files import as_texts
from spamcaf.sections.scale import PITCH_UM, SPOT_UM

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

WRITTEN_BY_SPACE_RANGER = (ScaleFactor.HIRES, ScaleFactor.LOWRES, ScaleFactor.FIDUCIAL)
"""Other tools write `spot_diameter_fullres`, too, and what they mean by it is not known."""
THUMBNAILS = ("hires", "lowres")
PLACES = (Obs.IN_TISSUE, Obs.ARRAY_ROW, Obs.ARRAY_COL)
WHITE = 255
N_RGB, N_RGBA = 3, 4


@dataclass(frozen=True)
class Library:
    """The rows of one section in a file that may hold several, and its record in `uns["spatial"]` (may be empty)."""

    rows: NDArray[np.bool_]
    record: Mapping[str, Any]


def refuse_prediction(uns: Mapping[str, Any], source: str) -> None:
    """Raise InputError for a file that spamcaf wrote: a prediction is no measurement."""
    if PROVENANCE in uns:
        raise InputError(
            f"a prediction of spamcaf in {source}.",
            "a measured section with raw counts.",
            "Pass the data that the prediction was made from.",
        )


def choose_library(obs: pd.DataFrame, uns: Mapping[str, Any], section: str, source: str) -> Library:
    """Return the library called `section`, or the only one; raise InputError listing several."""
    records = _records(uns)
    column = _library_column(obs, records)
    if column is None and len(records) > 1:
        raise _which(list(records), source, "and no column of obs says which spot is of which")
    if column is None:
        return Library(np.ones(len(obs), bool), next(iter(records.values()), {}))
    labels = as_texts(obs[column])
    names = [name for name in dict.fromkeys(labels) if name]
    if (labels == "").any():
        logger.warning("%d spots of %s are of no library by obs['%s']: left out", (labels == "").sum(), source, column)
    if len(names) > 1 and section not in names:
        raise _which(names, source, f"by obs['{column}']")
    name = section if section in names else names[0]
    only = len(names) == 1 and len(records) == 1
    record = next(iter(records.values())) if only else records.get(name, {})
    return Library((labels == name).to_numpy(), record)


def scale_factors(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the scale factors of a library that are numbers above 0."""
    factors = record.get("scalefactors", {})
    numbers = {str(k): _number(v) for k, v in factors.items()} if isinstance(factors, Mapping) else {}
    return {key: value for key, value in numbers.items() if value is not None}


def scale_facts(record: Mapping[str, Any], spots: pd.DataFrame) -> dict[str, Any]:
    """Return lattice, pitch, diameters and micrometres per pixel, each only where the record says it.

    `spots` has the columns of `spot_columns`. Array indices tell a Visium section from others, and where there are
    none, the chemistry that Space Ranger wrote down.
    """
    factors = scale_factors(record)
    metadata = record.get("metadata", {})
    metadata = metadata if isinstance(metadata, Mapping) else {}
    facts: dict[str, Any] = {}
    if ScaleFactor.BIN in factors or ScaleFactor.MPP in factors:
        facts = bin_facts(factors.get(ScaleFactor.BIN), factors.get(ScaleFactor.MPP))
    elif _is_visium(factors, metadata, spots):
        facts = visium_facts(factors)
    mpp = _number(metadata.get("mpp"))
    return facts if mpp is None else {**facts, SectionField.MPP.value: mpp}


def visium_facts(factors: Mapping[str, float]) -> dict[str, Any]:
    """Return the facts of the Visium array, and the diameters in pixels that the scale factors hold."""
    facts = {
        SectionField.LATTICE.value: "hexagonal",
        SectionField.PITCH_UM.value: PITCH_UM,
        SectionField.SPOT_UM.value: SPOT_UM,
    }
    diameters = {SectionField.SPOT_PX.value: ScaleFactor.SPOT, SectionField.FIDUCIAL_PX.value: ScaleFactor.FIDUCIAL}
    return facts | {fact: factors[key] for fact, key in diameters.items() if key in factors}


def bin_facts(bin_um: float | None, mpp: float | None) -> dict[str, Any]:
    """Return the facts of Visium HD in bins of `bin_um`."""
    facts: dict[str, Any] = {}
    if bin_um is not None:
        facts = {
            SectionField.LATTICE.value: "square",
            SectionField.PITCH_UM.value: bin_um,
            SectionField.SPOT_UM.value: bin_um,
        }
    return facts if mpp is None else {**facts, SectionField.MPP.value: mpp}


def is_visium_array(spots: pd.DataFrame) -> bool:
    """Tell whether array indices are there and count as Visium's do: columns in half pitches, odd ones in odd rows."""
    if Obs.ARRAY_ROW not in spots:
        return False
    row, column = spots[Obs.ARRAY_ROW].to_numpy(), spots[Obs.ARRAY_COL].to_numpy()
    return bool(((row + column) % 2 == 0).all() and (row % 2).any() and not (row % 2).all())


def library_entry(record: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return images and scale factors as `uns["spatial"][<section>]` of a raw section holds them."""
    images = record.get("images", {})
    images = images if isinstance(images, Mapping) else {}
    pictures = {name: thumbnail(images[name], f"{name} of {source}") for name in THUMBNAILS if name in images}
    return {
        "images": {name: picture for name, picture in pictures.items() if picture is not None},
        "scalefactors": scale_factors(record),
    }


def thumbnail(values: Any, what: str) -> NDArray[np.uint8] | None:  # noqa: ANN401  whatever a file holds there
    """Return a picture (row, column, 3) uint8 from uint8 or from floats of 0 to 1; warn and return None for others."""
    picture = np.asarray(values)
    is_rgb = picture.ndim == N_RGB and picture.shape[2] in (N_RGB, N_RGBA) and picture.size > 0
    if is_rgb and picture.dtype.kind == "f" and picture.min() >= 0 and picture.max() <= 1:
        picture = np.rint(picture * WHITE).astype(np.uint8)
    if not is_rgb or picture.dtype != np.uint8:
        logger.warning("%s is no picture (%s, %s): maps are drawn without it", what, picture.shape, picture.dtype)
        return None
    if picture.shape[2] == N_RGB:
        return picture
    alpha = picture[..., N_RGB:].astype(np.float32) / WHITE
    return np.rint(picture[..., :N_RGB] * alpha + WHITE * (1 - alpha)).astype(np.uint8)


def _records(uns: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    spatial = uns.get(SPATIAL, {})
    items = spatial.items() if isinstance(spatial, Mapping) else ()
    return {str(name): record for name, record in items if isinstance(record, Mapping)}


def _library_column(obs: pd.DataFrame, records: Mapping[str, Any]) -> str | None:
    """Return the column that names each spot's library: the usual one, else one whose values are all libraries.

    Of several the one with the most of them: libraries may be called 1 and 2.
    """
    if Obs.LIBRARY in obs and as_texts(obs[Obs.LIBRARY]).any():
        return Obs.LIBRARY.value
    if len(records) < 2:  # noqa: PLR2004  nothing to tell apart
        return None
    values = {name: set(as_texts(obs[name].drop_duplicates())) - {""} for name in obs.columns if name not in PLACES}
    candidates = [name for name, texts in values.items() if texts and texts <= set(records)]
    return max(candidates, key=lambda name: len(values[name]), default=None)


def _is_visium(factors: Mapping[str, float], metadata: Mapping[str, Any], spots: pd.DataFrame) -> bool:
    if not any(key in factors for key in WRITTEN_BY_SPACE_RANGER):
        return False
    if Obs.ARRAY_ROW in spots:
        return is_visium_array(spots)
    chemistry = metadata.get("chemistry_description", "")
    return "HD" not in str(chemistry) and str(chemistry).startswith(("Spatial", "Visium"))


def _number(value: Any) -> float | None:  # noqa: ANN401  whatever a file holds there
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _which(names: list[str], source: str, how: str) -> InputError:
    return InputError(
        f"{len(names)} libraries in {source}, {', '.join(names[:20])}, {how}.",
        "one section.",
        "Name the library: --params section=<library>, or write each to a file of its own.",
    )


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

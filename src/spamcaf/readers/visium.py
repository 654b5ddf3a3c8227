"""A Visium section as Space Ranger 1 to 4 wrote it, and what Visium HD shares with it."""

from __future__ import annotations

import io
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import Slide
from spamcaf.names import SECTION_METADATA, SPATIAL, Position, ScaleFactor, SectionField, SpaceRanger
from spamcaf.readers.anndata_parts import visium_facts
from spamcaf.readers.files import SectionQuery, make_section, reading, unpacked
from spamcaf.readers.matrix import read_matrix
from spamcaf.readers.visium_files import Sample, find_image, find_matrix, find_outs, image_folders
from spamcaf.readers.visium_positions import read_positions
from spamcaf.slides.open import open_slide

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

THUMBNAILS = {"hires": (SpaceRanger.HIRES, ScaleFactor.HIRES), "lowres": (SpaceRanger.LOWRES, ScaleFactor.LOWRES)}
DIAMETERS = (ScaleFactor.SPOT, ScaleFactor.FIDUCIAL)
GEM_SUFFIX = "-1"
MAX_OFF_TISSUE, NEAR_STEPS = 100_000, 8
"""Above so many spots off the tissue, those within so many steps of the array from tissue are kept."""


@dataclass(frozen=True)
class VisiumReader:
    """One Visium section: a hexagonal lattice of 55 um spots, 100 um apart. `outs` holds matrix and `spatial`."""

    outs: Path
    query: SectionQuery
    kind: str = "Space Ranger"

    def read(self) -> AnnData:
        """Read the section, see `SectionReader`: all spots that have a position, on and off the tissue."""
        section = read_spots(self.outs, self.query.section)
        factors = section.uns[SPATIAL][self.query.section]["scalefactors"]
        if ScaleFactor.BIN in factors:
            raise InputError(
                f"bins of {factors[ScaleFactor.BIN]:g} um of Visium HD in {self.outs}, by the scale factors.",
                "the files of one bin size in a folder of their own.",
                f"Move them into a folder square_{factors[ScaleFactor.BIN]:03.0f}um, with scalefactors_json.json "
                "unpacked and called so, and pass it: --params raw_root=<folder>.",
            )
        section.uns[SECTION_METADATA] |= visium_facts(factors)
        return section

    def open_slide(self) -> Slide:
        """Open the full-resolution image, see `find_image`."""
        return open_slide(self.query.image or find_image(image_folders(self.outs), self.query.section))


def find(query: SectionQuery) -> VisiumReader | None:
    """Return the Visium section, or None where there is no Space Ranger folder of it."""
    outs = find_outs(query)
    return VisiumReader(outs, query) if outs else None


def read_scalefactors(sample: Sample) -> dict[str, float]:
    """Return the scale factors that Space Ranger wrote; raise InputError when they are missing or make no sense.

    A diameter that is missing, null or 0 is left out: the array's pitch is known without it.
    """
    paths = sample.files(re.escape(SpaceRanger.SCALEFACTORS) + r"(?:\.gz)?")
    if not paths:
        expected = "the scale factors, without which the size of a pixel is unknown."
        raise sample.missing(SpaceRanger.SCALEFACTORS, expected)
    path = paths[0]
    with reading(path, "numbers by name"):
        record = json.loads(unpacked(path).decode("utf-8-sig"))
        if not isinstance(record, dict):
            raise ValueError("it holds no numbers by name")
    stated = {key: record[key] for key in ScaleFactor if record.get(key) is not None}
    return {
        key.value: _positive(key, value, path) for key, value in stated.items() if key not in DIAMETERS or value != 0
    }


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
            with reading(path, "an image"), Image.open(io.BytesIO(unpacked(path))) as image:
                images[name] = np.asarray(image.convert("RGB"))
        except InputError as error:
            logger.warning("%s Maps are drawn without it.", error)
    return images


def read_spots(folder: Path, name: str) -> AnnData:
    """Return what Visium and Visium HD have in common: counts joined with positions by barcode.

    Scale factors and thumbnails are in `uns["spatial"][name]`; the facts hold the name, how many barcodes had no
    position, and where the spots off the tissue lie, which the filtered matrix leaves out. Raises InputError.
    """
    path, sample = find_matrix(folder, name)
    factors = read_scalefactors(sample)
    positions = read_positions(sample)
    matrix = read_matrix(path)
    placed = matrix.obs_names.isin(positions.index)
    if not placed.any():
        bare = [names.str.removesuffix(GEM_SUFFIX) for names in (matrix.obs_names, positions.index)]
        agree = "They agree without it: add it." if bare[0].isin(bare[1]).any() else "If not, they are of two sections."
        raise InputError(
            f"no barcode in common in {folder}: {matrix.obs_names[0]} in the matrix, {positions.index[0]} in the "
            "position file.",
            "the same barcodes.",
            f"Does one of the files lack the '{GEM_SUFFIX}' at the end of its barcodes? {agree}",
        )
    where = positions.loc[matrix.obs_names[placed]].rename_axis(None)
    facts = {
        SectionField.NAME.value: name,
        SectionField.UNMATCHED.value: int((~placed).sum()),
        SectionField.OFF_TISSUE.value: _off_tissue(positions, matrix.obs_names),
    }
    section = make_section(
        # a copy of the counts of Visium HD takes gigabytes
        matrix.X if placed.all() else matrix.X[np.flatnonzero(placed)],
        where[[Position.IN_TISSUE, Position.ARRAY_ROW, Position.ARRAY_COL]],
        matrix.var,
        where[[Position.PXL_COL, Position.PXL_ROW]].to_numpy(np.float64),
        facts,
    )
    section.uns[SPATIAL] = {name: {"images": read_thumbnails(sample, factors), "scalefactors": factors}}
    return section


def _off_tissue(positions: pd.DataFrame, in_matrix: pd.Index) -> NDArray[np.float64]:
    """Return (x, y) of the spots off the tissue that the matrix has no row of, (spot, 2).

    Of millions of bins, only those near tissue: the others tell nothing of where tissue ends.
    """
    is_off = (positions[Position.IN_TISSUE] == 0).to_numpy()
    if is_off.sum() > MAX_OFF_TISSUE:
        from scipy.ndimage import binary_dilation

        indices = (Position.ARRAY_ROW, Position.ARRAY_COL)
        row, column = (positions[key].to_numpy() - positions[key].min() for key in indices)
        array = np.zeros((row.max() + 1, column.max() + 1), bool)
        array[row[~is_off], column[~is_off]] = True
        is_off &= binary_dilation(array, iterations=NEAR_STEPS)[row, column]
    off = positions[is_off & ~positions.index.isin(in_matrix)]
    return off[[Position.PXL_COL, Position.PXL_ROW]].to_numpy(np.float64)

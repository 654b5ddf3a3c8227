"""What a section is made of in an AnnData: its raw counts, found or recovered from normalised values, and its spots.

Counts are recovered from log(1 + counts x a factor per spot): undone, the values of a spot are whole multiples of its
smallest, which is taken for a count of 1.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.names import PROVENANCE, SPATIAL, Obs, Position, ScaleFactor, SectionField
from spamcaf.readers.files import as_texts, lattice_facts, only_one, require_once
from spamcaf.readers.matrix import FRACTIONS, as_csr, counts_problem, is_expression, name_genes
from spamcaf.sections.scale import PITCH_UM, SPOT_UM
from spamcaf.slides.rgb import N_RGB, Alpha, Conversion

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

LOG1P = "log1p"
WHOLE = 1e-3  # how far a recovered count may be from a whole number, beside the rounding of a float32
FLOAT32_ROUNDING = 1e-6
MAX_RECOVERED = 100_000  # above this a float32 no longer tells neighbouring counts apart
MIN_REPEATS, MIN_REPEATED_SHARE = 2, 0.05
"""How often, and in which share of a spot's non-zero values, the smallest must occur to be taken for a count of 1."""
MIN_PLAUSIBLE_SPOTS = 0.95
MAX_TOTAL_DIFFERENCE, MIN_EQUAL_SPOTS, FEWEST_SPOTS = 0.01, 0.95, 10
"""How near to their median the totals of how many spots, of at least so many, must be to look normalised."""
SELECTED = "highly_variable"  # `var` column of scanpy: true for all genes where the others were left out
WRITTEN_BY_SPACE_RANGER = (ScaleFactor.HIRES, ScaleFactor.LOWRES, ScaleFactor.FIDUCIAL)
"""Other tools write `spot_diameter_fullres`, too, and what they mean by it is not known."""
THUMBNAILS = ("hires", "lowres")
PLACES = (Obs.IN_TISSUE, Obs.ARRAY_ROW, Obs.ARRAY_COL)
COORDINATE_KEYS = (SPATIAL, "X_spatial")
PIXEL_COLUMNS = [Position.PXL_COL.value, Position.PXL_ROW.value]  # x, y
IN_TISSUE = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}


@dataclass(frozen=True)
class Matrix:
    """A matrix (spot, gene) that may hold counts, read by `load`, with a row of `var` per gene."""

    where: str
    load: Callable[[], Any]
    var: pd.DataFrame


@dataclass(frozen=True)
class Counts:
    """Raw counts (spot, gene), CSR int32; their genes; and where they come from, in words."""

    values: csr_matrix
    var: pd.DataFrame
    origin: str


@dataclass(frozen=True)
class Table:
    """Spots and genes of an AnnData, with the matrices that may hold raw counts in the order of trust."""

    source: str
    obs: pd.DataFrame
    obsm: Mapping[str, Any]
    uns: Mapping[str, Any]
    matrices: tuple[Matrix, ...]

    def counts(self) -> Counts:
        """Return the raw counts of all genes, named by `name_genes`; raise InputError naming what each matrix holds.

        The first matrix of raw counts is taken, else one that they can be recovered from. Where another one holds the
        same counts and those of more genes, it is taken: the depth of a spot is the sum of all its counts.
        """
        found = self._choose()
        self._warn_of_other_values(found)
        genes = is_expression(found.var)
        values = found.values if genes.all() else found.values[:, np.flatnonzero(genes)]
        return Counts(values, name_genes(found.var[genes], self.source), found.origin)

    def _choose(self) -> Counts:
        held: dict[str, str] = {}
        for matrix in self.matrices:
            counts, held[matrix.where] = self._counts_in(matrix)
            if counts is not None:
                return self._of_all_genes(counts)
        with_fractions = [matrix for matrix in self.matrices if held[matrix.where] == FRACTIONS]
        for matrix in sorted(with_fractions, key=lambda matrix: -len(matrix.var)):
            counts, held[matrix.where] = self._counts_in(matrix, recover=True)
            if counts is not None:
                logger.warning("No raw counts in %s: %s. They come out whole.", self.source, counts.origin)
                return counts
        contents = "; ".join(f"{where} holds {what}" for where, what in held.items())
        raise InputError(
            f"no raw counts in {self.source}: {contents or 'no matrix'}.",
            "raw counts in X or layers['counts'], whole numbers of 0 or more.",
            "Write the file again with the matrix as it was before normalisation in layers['counts'].",
        )

    def _counts_in(self, matrix: Matrix, recover: bool = False) -> tuple[Counts | None, str]:
        """Return the raw counts that a matrix holds, or None, and what it holds instead of them."""
        values = self._load(matrix)
        problem = counts_problem(values)
        if problem is None:
            return Counts(values.astype(np.int32), matrix.var, matrix.where), ""
        if problem == FRACTIONS and recover:
            base = as_mapping(self.uns.get(LOG1P)).get("base")
            recovered = recover_counts(values, float(base) if isinstance(base, Real) else None)
            if recovered is not None:
                return Counts(recovered, matrix.var, f"recovered from {matrix.where}, log1p-normalised"), problem
            problem += " from which counts cannot be recovered for certain"
        return None, problem

    def _load(self, matrix: Matrix) -> csr_matrix:
        values = matrix.load()
        try:
            return as_csr(values, (len(self.obs), len(matrix.var)))
        except (ValueError, TypeError) as error:
            if is_fault_of_ours(error):
                raise
            found = f"{matrix.where} of {self.source} is damaged ({error})."
            raise InputError(found, "a row per spot, a column per gene.", "Write it again.") from error

    def _of_all_genes(self, chosen: Counts) -> Counts:
        """Return counts that hold those of `chosen` among others; `chosen` where there are none, with a warning."""
        larger = [matrix for matrix in self.matrices if len(matrix.var) > len(chosen.var)]
        for matrix in larger:
            names = pd.Index(as_texts(matrix.var.index))
            columns = names.get_indexer(as_texts(chosen.var.index)) if names.is_unique else np.array([-1])
            if (columns < 0).any():
                continue
            full, problem = self._counts_in(matrix, recover=True)
            if full is not None and (full.values[:, columns] != chosen.values).nnz == 0:
                held = f"the full matrix of {len(full.var)} genes; {chosen.origin} holds {len(columns)} of them"
                full = Counts(full.values, full.var, f"{full.origin}, {held}")
                level = logging.WARNING if problem else logging.INFO
                logger.log(level, "counts of %s: %s", self.source, full.origin)
                return full
        is_selection = SELECTED in chosen.var and (as_texts(chosen.var[SELECTED]).str.lower() == "true").all()
        if larger or is_selection:
            more = ", ".join(f"{matrix.where} with {len(matrix.var)} genes holds no such counts" for matrix in larger)
            only = f"{len(chosen.var)} chosen genes only" + f" ({more})" * bool(more)
            text = "%s of %s has counts of %s: the depth of a spot is the sum of these alone"
            logger.warning(text, chosen.origin, self.source, only)
        return chosen

    def _warn_of_other_values(self, counts: Counts) -> None:
        """Warn where whole numbers look like something else than counts: binarised, or normalised and rounded."""
        totals = np.asarray(counts.values.sum(axis=1)).ravel()
        totals = totals[totals > 0]
        is_equal = np.abs(totals / np.median(totals) - 1) <= MAX_TOTAL_DIFFERENCE
        looks = ""
        if counts.values.max() == 1:
            looks = "no number above 1: it looks binarised"
        elif len(totals) >= FEWEST_SPOTS and is_equal.mean() >= MIN_EQUAL_SPOTS:
            looks = f"about {np.median(totals):.0f} as the total of nearly every spot: it looks normalised and rounded"
        if looks:
            logger.warning("%s of %s holds %s, not counted", counts.origin, self.source, looks)


def recover_counts(values: csr_matrix, log_base: float | None = None) -> csr_matrix | None:
    """Return the counts of which `values` (spot, gene) is log(1 + counts x a factor per spot), or None.

    `log_base` is the base of the logarithm, None for the natural one. None is returned where a spot's values are no
    whole multiples of its smallest, or where that is too rare to be a count of 1 in more than a twentieth of the spots.
    """
    n = np.diff(values.indptr)
    starts, n_filled = values.indptr[:-1][n > 0], n[n > 0]
    with np.errstate(over="ignore"):
        linear = np.expm1(values.data.astype(np.float64) * np.log(log_base or np.e))
    ratio = linear / np.repeat(np.minimum.reduceat(linear, starts), n_filled)
    counts = np.rint(ratio)
    if not counts.max() < MAX_RECOVERED or (np.abs(ratio - counts) > WHOLE + FLOAT32_ROUNDING * counts).any():
        return None
    # were the smallest a count of 2, counts of 3 would be fractions; it must also be as common as a count of 1 is
    n_ones = np.add.reduceat((counts == 1).astype(np.int64), starts)
    plausible = (n_ones >= MIN_REPEATS) & (n_ones >= MIN_REPEATED_SHARE * n_filled)
    if plausible.mean() < MIN_PLAUSIBLE_SPOTS:
        return None
    return csr_matrix((counts.astype(np.int32), values.indices, values.indptr), shape=values.shape)


def table_of(data: AnnData, source: str) -> Table:
    """Return the parts of an AnnData in memory."""
    matrices = []
    if "counts" in data.layers:
        matrices.append(Matrix("layers['counts']", lambda: data.layers["counts"], data.var))
    if data.X is not None:
        matrices.append(Matrix("X", lambda: data.X, data.var))
    if data.raw is not None:
        matrices.append(Matrix("raw.X", lambda: data.raw.X, data.raw.var))
    return Table(source, data.obs, data.obsm, data.uns, tuple(matrices))


def refuse_prediction(uns: Mapping[str, Any], source: str) -> None:
    """Raise InputError for a file that spamcaf wrote: a prediction is no measurement."""
    if PROVENANCE in uns:
        expected, next_step = "a measured section with raw counts.", "Pass the data that the prediction was made from."
        raise InputError(f"a prediction of spamcaf in {source}.", expected, next_step)


def choose_library(
    obs: pd.DataFrame, uns: Mapping[str, Any], section: str, source: str
) -> tuple[NDArray[np.bool_], Mapping[str, Any]]:
    """Return which rows are of the library called `section`, or of the only one, and its record in `uns["spatial"]`.

    The record may be empty. Raises InputError listing the libraries where there are several and none is called so.
    """
    expected, next_step = "one section.", "Name the library: --params section=<library>, or write each to its own file."
    records = {str(k): v for k, v in as_mapping(uns.get(SPATIAL)).items() if isinstance(v, Mapping)}
    column = _library_column(obs, records)
    if column is None:
        what = f"libraries in {source}, which no column of obs tells apart"
        name = only_one(list(records), what, expected, next_step) if records else ""
        return np.ones(len(obs), bool), records.get(name, {})
    labels = as_texts(obs[column])
    names = [name for name in dict.fromkeys(labels) if name]
    if (labels == "").any():
        logger.warning("%d spots of %s are of no library by obs['%s']: left out", (labels == "").sum(), source, column)
    what = f"libraries in {source} by obs['{column}']"
    name = section if section in names else only_one(names, what, expected, next_step)
    record = next(iter(records.values())) if len(names) == len(records) == 1 else records.get(name, {})
    return (labels == name).to_numpy(), record


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


def as_mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401  whatever a file holds there
    """Return a mapping as it is, and an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def scale_factors(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the scale factors of a library that are numbers above 0."""
    numbers = {str(key): _number(value) for key, value in as_mapping(record.get("scalefactors")).items()}
    return {key: value for key, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:  # noqa: ANN401  whatever a file holds there
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def scale_facts(record: Mapping[str, Any], spots: pd.DataFrame) -> dict[str, Any]:
    """Return lattice, pitch, diameters and micrometres per pixel, each only where the record states it.

    Array indices in `spots` tell a Visium section from others; where there are none, Space Ranger's chemistry does.
    """
    factors, metadata = scale_factors(record), as_mapping(record.get("metadata"))
    facts: dict[str, Any] = {}
    if ScaleFactor.BIN in factors or ScaleFactor.MPP in factors:
        facts = bin_facts(factors.get(ScaleFactor.BIN), factors.get(ScaleFactor.MPP))
    elif any(key in factors for key in WRITTEN_BY_SPACE_RANGER):
        chemistry = str(metadata.get("chemistry_description", ""))
        is_named = "HD" not in chemistry and chemistry.startswith(("Spatial", "Visium"))
        if is_visium_array(spots) if Obs.ARRAY_ROW in spots else is_named:
            facts = visium_facts(factors)
    mpp = _number(metadata.get("mpp"))
    return facts if mpp is None else {**facts, SectionField.MPP.value: mpp}


def visium_facts(factors: Mapping[str, float]) -> dict[str, Any]:
    """Return the facts of the Visium array, and the diameters in pixels that the scale factors hold."""
    diameters = {SectionField.SPOT_PX.value: ScaleFactor.SPOT, SectionField.FIDUCIAL_PX.value: ScaleFactor.FIDUCIAL}
    stated = {fact: factors[key] for fact, key in diameters.items() if key in factors}
    return lattice_facts("hexagonal", PITCH_UM, SPOT_UM) | stated


def bin_facts(bin_um: float | None, mpp: float | None) -> dict[str, Any]:
    """Return the facts of Visium HD in bins of `bin_um` micrometres, at `mpp` micrometres per pixel."""
    facts = {} if bin_um is None else lattice_facts("square", bin_um, bin_um)
    return facts if mpp is None else {**facts, SectionField.MPP.value: mpp}


def is_visium_array(spots: pd.DataFrame) -> bool:
    """Tell whether array indices are there and count as Visium's do: columns in half pitches, odd ones in odd rows."""
    if Obs.ARRAY_ROW not in spots:
        return False
    row, column = spots[Obs.ARRAY_ROW], spots[Obs.ARRAY_COL]
    return bool(((row + column) % 2 == 0).all() and (row % 2).any() and not (row % 2).all())


def library_entry(record: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return images and scale factors as `uns["spatial"][<section>]` of a raw section holds them."""
    stored = as_mapping(record.get("images"))
    images = {name: thumbnail(stored[name], f"{name} of {source}") for name in THUMBNAILS if name in stored}
    images = {name: image for name, image in images.items() if image is not None}
    return {"images": images, "scalefactors": scale_factors(record)}


def thumbnail(values: Any, what: str) -> NDArray[np.uint8] | None:  # noqa: ANN401  whatever a file holds there
    """Return an image (row, column, 3) uint8 from uint8 or from floats of 0 to 1; warn and return None for others."""
    image = np.asarray(values)
    is_rgb = image.ndim == N_RGB and image.shape[2] in (N_RGB, N_RGB + 1) and image.size > 0
    if is_rgb and image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1:
        image = np.rint(image * 255).astype(np.uint8)
    if not is_rgb or image.dtype != np.uint8:
        logger.warning("%s is no RGB image (%s, %s): maps are drawn without it", what, image.shape, image.dtype)
        return None
    return Conversion(Alpha.NONE if image.shape[2] == N_RGB else Alpha.STRAIGHT).to_rgb(image)


def spot_columns(obs: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return in_tissue (0 or 1; 1 where `obs` has none), and array_row and array_col where both are whole.

    Raises InputError for a barcode that is missing or occurs twice, and for an in_tissue that is neither yes nor no.
    """
    names = pd.Index(as_texts(obs.index).to_numpy())
    if (names == "").any():
        found = f"{(names == '').sum()} of {len(names)} spots without a name in {source}."
        raise InputError(found, "a barcode for each.", "Name every spot, and write the file again.")
    hides = "obs_names_make_unique hides what belongs where"
    require_once(names, "barcode", source, f"Give every spot its own name ({hides}), and write the file again.")
    columns = pd.DataFrame({Obs.IN_TISSUE.value: 1}, index=names)
    if Obs.IN_TISSUE in obs:
        texts = as_texts(obs[Obs.IN_TISSUE]).str.strip().str.lower()
        values = texts.map(IN_TISSUE)
        if values.isna().any():
            raise InputError(
                f"'{texts[values.isna()].iloc[0]}' as in_tissue of {int(values.isna().sum())} spots of {source}.",
                "1 or 0, True or False.",
                "Correct the column, or remove it if all spots are on tissue.",
            )
        columns[Obs.IN_TISSUE.value] = values.to_numpy(np.int64)
    indices = [Obs.ARRAY_ROW.value, Obs.ARRAY_COL.value]
    if set(indices) <= set(obs.columns):
        numbers = [pd.to_numeric(obs[name].astype(object), errors="coerce") for name in indices]
        index = np.column_stack([column.to_numpy(np.float64, na_value=np.nan) for column in numbers])
        if np.isfinite(index).all() and not (index % 1).any():
            columns[indices] = index.astype(np.int64)
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
        found = f"coordinates of {source} that are no numbers ({error})."
        raise InputError(found, "x and y.", "Correct them.") from error
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

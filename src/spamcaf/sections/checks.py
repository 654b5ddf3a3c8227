"""Identity before computing: do counts, coordinates, lattice, scale and image belong together?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, Obs, ScaleFactor, SectionField
from spamcaf.sections.array_indices import assign_array_indices
from spamcaf.sections.lattice import Lattice, fit_lattice, require_finite
from spamcaf.sections.scale import resolve_scale

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import SectionSettings
    from spamcaf.sections.array_indices import ArrayIndices
    from spamcaf.sections.scale import Scale


def coordinates_of(section: AnnData) -> NDArray[np.float64]:
    """Return (x, y) of every spot (spot, 2), in pixels; raise InputError unless they are finite numbers."""
    if SPATIAL not in section.obsm:
        keys = ", ".join(section.obsm.keys()) or "nothing"
        raise InputError(f"no coordinates, obsm holds {keys}.", f"obsm['{SPATIAL}'].", "Check the section's file.")
    try:
        xy = np.asarray(section.obsm[SPATIAL], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"coordinates that are no numbers ({error}).", "x and y in pixels.", "Check the position file."
        ) from error
    if xy.ndim != 2 or xy.shape[1] != 2:  # noqa: PLR2004
        raise InputError(f"coordinates of shape {xy.shape}.", "x and y of every spot.", "Check the section's file.")
    require_finite(xy)
    return xy


def in_tissue_of(section: AnnData) -> NDArray[np.bool_]:
    """Return which spots the source says are under tissue."""
    values = _whole_numbers(section, Obs.IN_TISSUE)
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{Obs.IN_TISSUE} of {values.max()}.", "0 or 1.", "Check the position file.")
    return values == 1


def index_of(section: AnnData) -> NDArray[np.int64] | None:
    """Return (array_col, array_row) of every spot (spot, 2), or None where the source has none."""
    columns = (Obs.ARRAY_COL, Obs.ARRAY_ROW)
    if not all(column in section.obs for column in columns):
        return None
    return np.column_stack([_whole_numbers(section, column) for column in columns])


def _whole_numbers(section: AnnData, column: Obs) -> NDArray[np.int64]:
    import pandas as pd

    if column not in section.obs:
        raise InputError(f"no column {column} of obs.", "a number for every spot.", "Check the section's file.")
    text = section.obs[column].astype("string").str.lower().replace({"true": "1", "false": "0"})
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~(np.isfinite(numbers) & (numbers % 1 == 0))
    if wrong.any():
        raise InputError(
            f"{column} '{section.obs[column].iloc[int(wrong.argmax())]}' of {section.obs_names[wrong.argmax()]}.",
            "a whole number for every spot.",
            "Check the position file.",
        )
    return numbers.astype(np.int64)


logger = logging.getLogger(__name__)

IMAGE_TOLERANCE_PX = 2
"""How far the image may be from the size that its thumbnail implies, in thumbnail rounding steps."""


def count_outside(xy_px: NDArray[np.float64], image_shape: tuple[int, int]) -> dict[str, int]:
    """Count the spots beyond each side of an image of (rows, columns)."""
    rows, columns = image_shape
    x, y = xy_px.T
    return {
        "left": int((x < 0).sum()),
        "right": int((x >= columns).sum()),
        "top": int((y < 0).sum()),
        "bottom": int((y >= rows).sum()),
    }


def require_image(
    section: AnnData, image_shape: tuple[int, int], settings: SectionSettings, image: str = "the image"
) -> None:
    """Raise InputError when too many spots lie outside the image, or when a thumbnail is of another image.

    Parameters
    ----------
    section
        Its spots in pixels and its small pictures are looked at.
    image_shape
        (rows, columns) of the full-resolution image.
    settings
        Limits; with `trust_image` a thumbnail of another size is warned of only.
    image
        Name of the image's file, for messages.
    """
    xy = section.obsm[SPATIAL]
    rows, columns = image_shape
    is_outside = ((xy < 0) | (xy >= (columns, rows))).any(axis=1)
    if is_outside.mean() > settings.max_outside:
        (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
        raise InputError(
            f"{image} of {columns} x {rows} px, and spots with x from {x0:.0f} to {x1:.0f} and y from {y0:.0f} to "
            f"{y1:.0f}.",
            "spots inside the image.",
            "Image and coordinates do not belong together: give the full-resolution image, not hires or CytAssist "
            "(--params image=<file>), and coordinates in its pixels, not in micrometres.",
        )
    for record in section.uns.get(SPATIAL, {}).values():
        scale = record.get("scalefactors", {}).get(ScaleFactor.HIRES)
        if scale is None or "hires" not in record.get("images", {}):
            continue
        implied = np.array(record["images"]["hires"].shape[:2]) / float(scale)
        if np.abs(implied - image_shape).max() > IMAGE_TOLERANCE_PX / float(scale):
            problem = InputError(
                f"{image} of {columns} x {rows} px, and a thumbnail of one of {implied[1]:.0f} x {implied[0]:.0f} px.",
                "one size.",
                "Give the image that Space Ranger was run on (--params image=<file>); or, if you know that they belong "
                "together: --params section_checks.trust_image=true.",
            )
            if not settings.trust_image:
                raise problem
            logger.warning("trusted all the same (section_checks.trust_image): %s", problem)


def section_report(
    section: AnnData, numbering: ArrayIndices, scale: Scale, image_shape: tuple[int, int], n_dropped: Mapping[str, int]
) -> dict[str, Any]:
    """Return the record of a section that passed, as plain data."""
    facts, lattice = section.uns[SECTION_METADATA], numbering.lattice
    return {
        "section": str(facts[SectionField.NAME]),
        **{key: str(facts[key]) for key in (SectionField.LAYOUT.value, SectionField.COUNTS.value) if key in facts},
        "n_spots": int(section.n_obs),
        "n_genes": int(section.n_vars),
        "n_genes_constant": _count_constant_genes(section),
        "n_spots_dropped": {**n_dropped, "unmatched": int(facts.get(SectionField.UNMATCHED, 0))},
        "median_umi_per_spot": float(np.median(np.asarray(section.X.sum(axis=1)))),
        "lattice": lattice.kind,
        "lattice_from": numbering.source,
        "mirrored": lattice.mirrored,
        "pitch_um": scale.pitch_um,
        "pitch_px": round(lattice.pitch_px, 3),
        "lattice_residual_pitches": round(lattice.residual, 4),
        "mpp": round(scale.mpp, 5),
        "mpp_by": {source: None if mpp is None else round(mpp, 5) for source, mpp in scale.mpp_by.items()},
        "image_px": {"width": int(image_shape[1]), "height": int(image_shape[0])},
        "n_spots_outside_image": count_outside(section.obsm[SPATIAL], image_shape),
    }


def as_table(report: Mapping[str, Any]) -> str:
    """Return the report as aligned rows of text, for the log."""
    dropped, outside, image = report["n_spots_dropped"], report["n_spots_outside_image"], report["image_px"]
    residual, share = report["lattice_residual_pitches"], report.get("share_of_spots_on_tissue")
    rows = {
        "layout": report.get(SectionField.LAYOUT.value),
        "counts from": report.get(SectionField.COUNTS.value),
        "spots": f"{report['n_spots']}{_listed(dropped, ', dropped: ')}",
        "genes": f"{report['n_genes']}, {report['n_genes_constant']} of them constant",
        "median UMI": f"{report['median_umi_per_spot']:g} per spot",
        "lattice": f"{report['lattice']} by {report['lattice_from']}, spots within {residual:.3f} pitches",
        "mirrored": "yes" if report["mirrored"] else "no",
        "pitch": f"{report['pitch_um']:g} um = {report['pitch_px']:g} px",
        "um per px": f"{report['mpp']:.4f} ({_sources(report['mpp_by'])})",
        "image": f"{image['width']} x {image['height']} px{_read_by(report)}",
        "outside": f"{sum(outside.values())} spots{_listed(outside, ': ')}",
        "on tissue": None if share is None else f"{share:.1%} of the spots",
    }
    width = max(map(len, rows)) + 2
    return "\n".join(
        [f"section {report['section']}", *(f"  {name:<{width}}{row}" for name, row in rows.items() if row)]
    )


def _read_by(report: Mapping[str, Any]) -> str:
    reader, notes = report.get("slide_reader"), report.get("slide_notes")
    return (f", by {reader}" if reader else "") + (f" ({'; '.join(notes)})" if notes else "")


def _sources(mpp_by: Mapping[str, float | None]) -> str:
    said = ", ".join(f"{source} {mpp:.4f}" for source, mpp in mpp_by.items() if mpp)
    return said or "by no source"


def _listed(counts: Mapping[str, int], before: str) -> str:
    some = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    return before + some if some else ""


def _count_constant_genes(section: AnnData) -> int:
    """Count the genes with one count in all spots; a checked section holds its counts as CSR."""
    least, most = (np.asarray(extreme.todense()).ravel() for extreme in (section.X.min(axis=0), section.X.max(axis=0)))
    return int((least == most).sum())


def check_section(
    raw: AnnData,
    image_shape: tuple[int, int],
    settings: SectionSettings,
    image_mpp: float | None = None,
    image: str = "the image",
) -> tuple[AnnData, dict[str, Any]]:
    """Return the section that is safe to compute with, and the report of what was checked.

    Spots off the tissue or without counts are dropped and counted; where those off the tissue lie is kept as a fact.
    The section returned has counts as CSR, array_row and array_col, found from the coordinates where the source has
    none, and all facts of lattice and scale.

    Parameters
    ----------
    raw
        As a reader gives it: counts, obsm["spatial"] in full-resolution pixels, and facts.
    image_shape
        (rows, columns) of the full-resolution image.
    settings
        Limits, and what only the user can know.
    image_mpp
        Micrometres per pixel that the image's file states.
    image
        Name of the image's file, for messages.

    Raises
    ------
    InputError
        At the first thing that does not fit.
    """
    _require_counts(raw)
    xy, is_kept, n_dropped = _choose_spots(raw)
    section = raw[is_kept].copy()
    section.obsm[SPATIAL] = xy[is_kept]
    _require_spots(section, settings)
    facts = dict(section.uns[SECTION_METADATA])
    _require_matched(facts, raw.n_obs, settings)

    index = index_of(section)
    _refuse_array_indices(section.obsm[SPATIAL], index)
    numbering = assign_array_indices(section.obsm[SPATIAL], index, facts.get(SectionField.LATTICE), settings)
    scale = resolve_scale(numbering.lattice, facts, image_mpp, settings, _picture_scales(section))
    require_image(section, image_shape, settings, image)
    _complete(section, numbering.index)
    section.uns[SECTION_METADATA] = {
        **facts,
        SectionField.LATTICE.value: numbering.lattice.kind,
        SectionField.PITCH_UM.value: scale.pitch_um,
        SectionField.SPOT_UM.value: scale.spot_um,
        SectionField.MPP.value: scale.mpp,
        SectionField.OFF_TISSUE.value: np.concatenate([off_tissue_of(raw), xy[~in_tissue_of(raw)]]),
    }
    return section, section_report(section, numbering, scale, image_shape, n_dropped)


def lattice_of(section: AnnData) -> Lattice:
    """Fit the lattice of a checked section's spots."""
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    return fit_lattice(section.obsm[SPATIAL], index, section.uns[SECTION_METADATA][SectionField.LATTICE])


def off_tissue_of(section: AnnData) -> NDArray[np.float64]:
    """Return (x, y) of the spots that the source calls off the tissue and gives no counts of, (spot, 2), pixels."""
    return np.asarray(section.uns[SECTION_METADATA].get(SectionField.OFF_TISSUE, ()), np.float64).reshape(-1, 2)


def _picture_scales(section: AnnData) -> dict[str, float]:
    """Return the scale factors of the section's small pictures by name."""
    factors = [record.get("scalefactors", {}) for record in section.uns.get(SPATIAL, {}).values()]
    keys = (ScaleFactor.HIRES.value, ScaleFactor.LOWRES.value)
    return {key: float(record[key]) for record in factors for key in keys if key in record}


def _refuse_array_indices(xy_px: NDArray[np.float64], index: NDArray[np.int64] | None) -> None:
    if index is not None and (np.array_equal(xy_px, index) or np.array_equal(xy_px, index[:, ::-1])):
        raise InputError(
            "coordinates that are the spots' array rows and columns.",
            "coordinates in pixels of the full-resolution image.",
            "Give the spots' pixel coordinates, as Space Ranger's position file has them.",
        )


def _choose_spots(raw: AnnData) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Return the coordinates of all spots, which of them are kept, and how many are dropped and why."""
    xy, on_tissue = coordinates_of(raw), in_tissue_of(raw)
    has_counts = np.asarray(raw.X.sum(axis=1)).ravel() > 0
    dropped = {"empty": int((on_tissue & ~has_counts).sum()), "off_tissue": int((~on_tissue).sum())}
    return xy, on_tissue & has_counts, dropped


def _complete(section: AnnData, index: NDArray[np.int64]) -> None:
    from scipy.sparse import csr_matrix

    section.X = csr_matrix(section.X)
    section.obs[Obs.IN_TISSUE.value] = 1
    section.obs[Obs.ARRAY_COL.value], section.obs[Obs.ARRAY_ROW.value] = index.T


def _require_counts(raw: AnnData) -> None:
    for what, names in (("barcode", raw.obs_names), ("gene", raw.var_names)):
        if not names.is_unique:
            raise InputError(f"{what} {names[names.duplicated()][0]} twice.", "each once.", "Correct the input matrix.")
    values = raw.X.data if hasattr(raw.X, "tocsr") else np.asarray(raw.X)
    if values.size == 0 or not np.isfinite(values).all() or (values < 0).any() or (values % 1).any():
        raise InputError(
            "a matrix that is empty, or holds negative, missing or fractional values.",
            "raw UMI counts: whole numbers, 0 or more.",
            "Use the raw (filtered, not normalised) count matrix.",
        )
    if GENE_IDS not in raw.var:
        raise InputError(
            f"no column {GENE_IDS} of var.",
            "an id per gene.",
            "Add var['gene_ids']; where there are no Ensembl ids, copy the symbols there.",
        )


def _require_spots(section: AnnData, settings: SectionSettings) -> None:
    if section.n_obs < settings.min_spots:
        raise InputError(
            f"{section.n_obs} spots with counts under tissue.",
            f"at least {settings.min_spots} (section_checks.min_spots).",
            "Check that matrix and position file belong together.",
        )


def _require_matched(facts: dict[str, Any], n_matched: int, settings: SectionSettings) -> None:
    n_unmatched = int(facts.get(SectionField.UNMATCHED, 0))
    share = n_unmatched / max(n_unmatched + n_matched, 1)
    if share > settings.max_unmatched:
        raise InputError(
            f"{n_unmatched} of {n_unmatched + n_matched} barcodes of the matrix have no position.",
            f"at most {settings.max_unmatched:.0%}.",
            "Matrix and position file are of two sections, or one of them lacks the '-1' at the end of its barcodes.",
        )

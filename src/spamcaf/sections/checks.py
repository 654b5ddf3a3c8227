"""Identity before computing: do counts, coordinates, lattice, scale and image belong together?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, Obs, ScaleFactor, SectionField
from spamcaf.sections.array_indices import assign_array_indices, coordinates_of, index_of, whole_numbers
from spamcaf.sections.scale import resolve_scale

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.parameters import SectionSettings
    from spamcaf.sections.array_indices import ArrayIndices
    from spamcaf.sections.scale import Scale

logger = logging.getLogger(__name__)

_IMAGE_TOLERANCE_PX = 2  # how far the image's size may be from its thumbnail's, in pixels of the thumbnail


def check_section(
    raw: AnnData,
    image_shape: tuple[int, int] | None,
    settings: SectionSettings,
    image_mpp: float | None = None,
    image: str = "the image",
) -> tuple[AnnData, dict[str, Any]]:
    """Check a section, drop its spots off the tissue or without counts, and complete its metadata.

    Parameters
    ----------
    raw : as a reader returns it: counts, obsm["spatial"] in full-resolution pixels, and uns["section"]
    image_shape, image_mpp, image : (rows, columns), micrometres per pixel as stated, and name of the image's file;
        shape None where there is no image

    Returns
    -------
    The section, safe to compute with (counts as CSR, array_row and array_col, and uns["section"] with lattice, pitch,
    scale, and the coordinates of the spots off the tissue), and a report of what was found, as plain data.

    Raises
    ------
    InputError : at the first thing that does not fit
    """
    from scipy.sparse import csr_matrix

    _require_counts(raw)
    xy, on_tissue = coordinates_of(raw), _in_tissue(raw)
    has_counts = np.asarray(raw.X.sum(axis=1)).ravel() > 0
    is_kept = on_tissue & has_counts
    n_dropped = {"empty": int((on_tissue & ~has_counts).sum()), "off_tissue": int((~on_tissue).sum())}
    section = raw[is_kept].copy()
    section.obsm[SPATIAL] = xy[is_kept]
    metadata = dict(section.uns[SECTION_METADATA])
    _require_spots(section, raw.n_obs, int(metadata.get(SectionField.UNMATCHED, 0)), settings)

    index = index_of(section)
    _refuse_array_indices(xy[is_kept], index)
    indices = assign_array_indices(xy[is_kept], index, metadata.get(SectionField.LATTICE), settings)
    scale = resolve_scale(indices.lattice, metadata, image_mpp, settings, _thumbnail_scales(section))
    if image_shape is None:
        _require_positive(xy[is_kept])
    else:
        _require_image(section, image_shape, settings, image)
    section.X = csr_matrix(section.X)
    section.obs[Obs.IN_TISSUE.value] = 1
    section.obs[Obs.ARRAY_COL.value], section.obs[Obs.ARRAY_ROW.value] = indices.index.T
    section.uns[SECTION_METADATA] = {
        **metadata,
        SectionField.LATTICE.value: indices.lattice.kind,
        SectionField.PITCH_UM.value: scale.pitch_um,
        SectionField.SPOT_UM.value: scale.spot_um,
        SectionField.MPP.value: scale.mpp,
        SectionField.OFF_TISSUE.value: np.concatenate([off_tissue_of(raw), xy[~on_tissue]]),
    }
    return section, _report(section, indices, scale, image_shape, n_dropped)


def off_tissue_of(section: AnnData) -> NDArray[np.float64]:
    """Return (x, y) of the spots that the source calls off the tissue and gives no counts of, (spot, 2), pixels."""
    return np.asarray(section.uns[SECTION_METADATA].get(SectionField.OFF_TISSUE, ()), np.float64).reshape(-1, 2)


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


def _in_tissue(raw: AnnData) -> NDArray[np.bool_]:
    values = whole_numbers(raw, Obs.IN_TISSUE)
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"{Obs.IN_TISSUE} of {values.max()}.", "0 or 1.", "Check the position file.")
    return values == 1


def _require_spots(section: AnnData, n_matched: int, n_unmatched: int, settings: SectionSettings) -> None:
    """Raise InputError where too few spots are left, or too many barcodes of the matrix have no position."""
    if section.n_obs < settings.min_spots:
        raise InputError(
            f"{section.n_obs} spots with counts under tissue.",
            f"at least {settings.min_spots} (section_checks.min_spots).",
            "Check that matrix and position file belong together.",
        )
    n_barcodes = n_unmatched + n_matched
    if n_unmatched / max(n_barcodes, 1) > settings.max_unmatched:
        raise InputError(
            f"{n_unmatched} of {n_barcodes} barcodes of the matrix have no position.",
            f"at most {settings.max_unmatched:.0%}.",
            "Matrix and position file are of two sections, or one of them lacks the '-1' at the end of its barcodes.",
        )


def _refuse_array_indices(xy_px: NDArray[np.float64], index: NDArray[np.int64] | None) -> None:
    if index is not None and (np.array_equal(xy_px, index) or np.array_equal(xy_px, index[:, ::-1])):
        raise InputError(
            "coordinates that are the spots' array rows and columns.",
            "coordinates in pixels of the full-resolution image.",
            "Give the spots' pixel coordinates, as Space Ranger's position file has them.",
        )


def _thumbnail_scales(section: AnnData) -> dict[str, float]:
    factors = [record.get("scalefactors", {}) for record in section.uns.get(SPATIAL, {}).values()]
    keys = (ScaleFactor.HIRES.value, ScaleFactor.LOWRES.value)
    return {key: float(record[key]) for record in factors for key in keys if key in record}


def _require_image(section: AnnData, image_shape: tuple[int, int], settings: SectionSettings, image: str) -> None:
    """Raise InputError when too many spots lie outside the image, or when a thumbnail is of another image."""
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
        if np.abs(implied - image_shape).max() > _IMAGE_TOLERANCE_PX / float(scale):
            problem = InputError(
                f"{image} of {columns} x {rows} px, and a thumbnail of one of {implied[1]:.0f} x {implied[0]:.0f} px.",
                "one size.",
                "Give the image that Space Ranger was run on (--params image=<file>); or, if you know that they belong "
                "together: --params section_checks.trust_image=true.",
            )
            if not settings.trust_image:
                raise problem
            logger.warning("trusted all the same (section_checks.trust_image): %s", problem)


def _require_positive(xy: NDArray[np.float64]) -> None:
    if (xy < 0).any():
        low = xy.min(axis=0)
        raise InputError(
            f"coordinates below 0 (x from {low[0]:g}, y from {low[1]:g}) of a section without an image.",
            "0 or more, as maps and masks begin at 0.",
            "Add a constant to all x and to all y.",
        )


def _report(
    section: AnnData,
    indices: ArrayIndices,
    scale: Scale,
    image_shape: tuple[int, int] | None,
    n_dropped: Mapping[str, int],
) -> dict[str, Any]:
    metadata, lattice = section.uns[SECTION_METADATA], indices.lattice
    x, y = section.obsm[SPATIAL].T
    image: dict[str, Any] = {"image_px": None, "n_spots_outside_image": {}}
    if image_shape is not None:
        rows, columns = image_shape
        outside = {"left": x < 0, "right": x >= columns, "top": y < 0, "bottom": y >= rows}
        image["image_px"] = {"width": int(columns), "height": int(rows)}
        image["n_spots_outside_image"] = {side: int(beyond.sum()) for side, beyond in outside.items()}
    least, most = (np.asarray(extreme.todense()) for extreme in (section.X.min(axis=0), section.X.max(axis=0)))
    return {
        "section": str(metadata[SectionField.NAME]),
        **{k: str(metadata[k]) for k in (SectionField.LAYOUT.value, SectionField.COUNTS.value) if k in metadata},
        "n_spots": int(section.n_obs),
        "n_genes": int(section.n_vars),
        "n_genes_constant": int((least == most).sum()),
        "n_spots_dropped": {**n_dropped, "unmatched": int(metadata.get(SectionField.UNMATCHED, 0))},
        "median_umi_per_spot": float(np.median(np.asarray(section.X.sum(axis=1)))),
        "lattice": lattice.kind,
        "lattice_from": indices.source,
        "mirrored": lattice.mirrored,
        "pitch_um": scale.pitch_um,
        "pitch_px": round(lattice.pitch_px, 3),
        "lattice_residual_pitches": round(lattice.residual, 4),
        "mpp": round(scale.mpp, 5),
        "mpp_by": {source: None if mpp is None else round(mpp, 5) for source, mpp in scale.mpp_by.items()},
        **image,
    }


def as_table(report: Mapping[str, Any]) -> str:
    """Return the report of `check_section` as aligned rows of text, for the log."""
    outside, image = report["n_spots_outside_image"], report["image_px"]
    share, reader, notes = map(report.get, ("share_of_spots_on_tissue", "slide_reader", "slide_notes"))
    other = report.get("like_orientation")
    read_by = (f", by {reader}" if reader else "") + (f" ({'; '.join(notes)})" if notes else "")
    mpp_by = ", ".join(f"{source} {mpp:.4f}" for source, mpp in report["mpp_by"].items() if mpp) or "by no source"
    rows = {
        "layout": report.get(SectionField.LAYOUT.value),
        "counts from": report.get(SectionField.COUNTS.value),
        "spots": f"{report['n_spots']}{_listed(report['n_spots_dropped'], ', dropped: ')}",
        "genes": f"{report['n_genes']}, {report['n_genes_constant']} of them constant",
        "median UMI": f"{report['median_umi_per_spot']:g} per spot",
        "lattice": "{lattice} by {lattice_from}, spots within {lattice_residual_pitches:.3f} pitches".format(**report),
        "mirrored": "yes" if report["mirrored"] else "no",
        "pitch": f"{report['pitch_um']:g} um = {report['pitch_px']:g} px",
        "um per px": f"{report['mpp']:.4f} ({mpp_by})",
        "image": f"{image['width']} x {image['height']} px{read_by}" if image else "none: not used",
        "outside": f"{sum(outside.values())} spots{_listed(outside, ': ')}" if image else None,
        "on tissue": None if share is None else f"{share:.1%} of the spots",
        "orientation": f"not told by the tissue, which fits {other} about as well" if other else None,
    }
    width = max(map(len, rows)) + 2
    shown = (f"  {name:<{width}}{row}" for name, row in rows.items() if row)
    return "\n".join([f"section {report['section']}", *shown])


def _listed(counts: Mapping[str, int], before: str) -> str:
    some = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    return before + some if some else ""

"""Identity before computing: do counts, coordinates, lattice, scale and image belong together?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import FACTS, GENE_IDS, SPATIAL, Fact, Obs, ScaleFactor
from spamcaf.sections.lattice import Lattice, fit_lattice

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import SectionSettings

IMAGE_TOLERANCE_PX = 2
"""How far the image may be from the size that its thumbnail implies, in thumbnail rounding steps."""


def check_section(
    raw: AnnData, image_shape: tuple[int, int], settings: SectionSettings
) -> tuple[AnnData, dict[str, Any]]:
    """Return the section that is safe to compute with, and the report of what was checked.

    `image_shape` is (rows, columns) of the full-resolution image. Spots off the tissue or without counts are dropped
    and counted. Counts are returned as CSR. Raises InputError at the first thing that does not fit.
    """
    from scipy.sparse import csr_matrix

    _require_counts(raw)
    section = raw[raw.obs[Obs.IN_TISSUE].to_numpy(int) == 1]
    depth = np.asarray(section.X.sum(axis=1)).ravel()
    n_empty, n_off_tissue = int((depth == 0).sum()), raw.n_obs - section.n_obs
    section = section[depth > 0].copy()
    section.X = csr_matrix(section.X)
    _require_spots(section, settings)
    facts = dict(section.uns[FACTS])
    _require_matched(facts, raw.n_obs, settings)
    lattice = lattice_of(section)
    _require_lattice(lattice, settings)
    mpp = _agree_on_mpp(lattice, facts, settings)
    outside = _count_outside(section.obsm[SPATIAL], image_shape)
    _require_image(section, image_shape, outside, settings)
    section.uns[FACTS] = {**facts, Fact.MPP.value: mpp}
    return section, _report(section, lattice, mpp, image_shape, outside, {"empty": n_empty, "off_tissue": n_off_tissue})


def lattice_of(section: AnnData) -> Lattice:
    """Fit the lattice of a section's spots."""
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    return fit_lattice(section.obsm[SPATIAL], index, section.uns[FACTS][Fact.LATTICE])


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
    if not np.isfinite(raw.obsm[SPATIAL]).all():
        n = int((~np.isfinite(raw.obsm[SPATIAL])).any(axis=1).sum())
        raise InputError(f"{n} spots without coordinates.", "numbers for all.", "Check the position file.")
    if GENE_IDS not in raw.var:
        raise InputError(f"no column {GENE_IDS} of var.", "an id per gene.", "Give the symbols where there are no ids.")


def _require_spots(section: AnnData, settings: SectionSettings) -> None:
    if section.n_obs < settings.min_spots:
        raise InputError(
            f"{section.n_obs} spots with counts under tissue.",
            f"at least {settings.min_spots} (section_checks.min_spots).",
            "Check that matrix and position file belong together.",
        )


def _require_matched(facts: dict[str, Any], n_matched: int, settings: SectionSettings) -> None:
    n_unmatched = int(facts.get(Fact.UNMATCHED, 0))
    share = n_unmatched / max(n_unmatched + n_matched, 1)
    if share > settings.max_unmatched:
        raise InputError(
            f"{n_unmatched} of {n_unmatched + n_matched} barcodes of the matrix have no position.",
            f"at most {settings.max_unmatched:.0%}.",
            "Matrix and position file are of two sections, or one of them lacks the '-1' at the end of its barcodes.",
        )


def _require_lattice(lattice: Lattice, settings: SectionSettings) -> None:
    if lattice.residual > settings.max_lattice_residual or lattice.skew > settings.max_lattice_residual:
        raise InputError(
            f"spots {lattice.residual:.2f} pitches off a {lattice.kind} lattice with sides {lattice.skew:.0%} apart.",
            f"at most {settings.max_lattice_residual:.2f}.",
            "Check array_row, array_col and pixel coordinates; are rows and columns swapped?",
        )


def _agree_on_mpp(lattice: Lattice, facts: dict[str, Any], settings: SectionSettings) -> float:
    """Return micrometres per pixel: the lattice's, after comparing it with what the source says."""
    fitted = float(facts[Fact.PITCH_UM]) / lattice.pitch_px
    stated = facts.get(Fact.MPP)
    if stated is not None and abs(fitted / float(stated) - 1) > settings.max_mpp_disagreement:
        raise InputError(
            f"{float(stated):.4f} um per pixel by the scale factors, {fitted:.4f} by the lattice.",
            f"the same within {settings.max_mpp_disagreement:.0%}.",
            "Scale factors and positions are not of one section, or the coordinates are not full-resolution pixels.",
        )
    return fitted


def _count_outside(xy_px: NDArray[np.float64], image_shape: tuple[int, int]) -> dict[str, int]:
    rows, columns = image_shape
    x, y = xy_px.T
    return {
        "left": int((x < 0).sum()),
        "right": int((x >= columns).sum()),
        "top": int((y < 0).sum()),
        "bottom": int((y >= rows).sum()),
    }


def _require_image(
    section: AnnData, image_shape: tuple[int, int], outside: dict[str, int], settings: SectionSettings
) -> None:
    rows, columns = image_shape
    if sum(outside.values()) > settings.max_outside * section.n_obs:
        x, y = section.obsm[SPATIAL].max(axis=0)
        raise InputError(
            f"an image of {columns} x {rows} px, and spots up to x = {x:.0f}, y = {y:.0f}.",
            "spots inside the image.",
            "Image and coordinates do not belong together: give the full-resolution image, not hires or CytAssist.",
        )
    for record in section.uns.get(SPATIAL, {}).values():
        scale = record.get("scalefactors", {}).get(ScaleFactor.HIRES)
        if scale is None or "hires" not in record.get("images", {}):
            continue
        implied = np.array(record["images"]["hires"].shape[:2]) / float(scale)
        if np.abs(implied - image_shape).max() > IMAGE_TOLERANCE_PX / float(scale):
            raise InputError(
                f"an image of {columns} x {rows} px, and a thumbnail of one of {implied[1]:.0f} x {implied[0]:.0f} px.",
                "one size.",
                "Give the image that Space Ranger was run on.",
            )


def _report(
    section: AnnData,
    lattice: Lattice,
    mpp: float,
    image_shape: tuple[int, int],
    outside: dict[str, int],
    dropped: dict[str, int],
) -> dict[str, Any]:
    facts = section.uns[FACTS]
    depth = np.asarray(section.X.sum(axis=1)).ravel()
    return {
        "section": str(facts[Fact.NAME]),
        "n_spots": int(section.n_obs),
        "n_genes": int(section.n_vars),
        "n_spots_dropped": {**dropped, "unmatched": int(facts.get(Fact.UNMATCHED, 0))},
        "median_umi_per_spot": float(np.median(depth)),
        "lattice": lattice.kind,
        "pitch_um": float(facts[Fact.PITCH_UM]),
        "pitch_px": round(lattice.pitch_px, 3),
        "lattice_residual_pitches": round(lattice.residual, 4),
        "mpp": round(mpp, 5),
        "image_px": {"width": int(image_shape[1]), "height": int(image_shape[0])},
        "n_spots_outside_image": outside,
    }

"""Identity before computing: do counts, coordinates, lattice, scale and image belong together?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import FACTS, GENE_IDS, SPATIAL, Fact, Obs, ScaleFactor
from spamcaf.sections.lattice import Lattice, fit_lattice
from spamcaf.sections.numbering import number_spots
from spamcaf.sections.obs import coordinates_of, in_tissue_of, index_of
from spamcaf.sections.picture import require_image
from spamcaf.sections.report import section_report
from spamcaf.sections.scale import resolve_scale

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.parameters import SectionSettings


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
    facts = dict(section.uns[FACTS])
    _require_matched(facts, raw.n_obs, settings)

    index = index_of(section)
    _refuse_array_indices(section.obsm[SPATIAL], index)
    numbering = number_spots(section.obsm[SPATIAL], index, facts.get(Fact.LATTICE), settings)
    scale = resolve_scale(numbering.lattice, facts, image_mpp, settings, _picture_scales(section))
    require_image(section, image_shape, settings, image)
    _complete(section, numbering.index)
    section.uns[FACTS] = {
        **facts,
        Fact.LATTICE.value: numbering.lattice.kind,
        Fact.PITCH_UM.value: scale.pitch_um,
        Fact.SPOT_UM.value: scale.spot_um,
        Fact.MPP.value: scale.mpp,
        Fact.OFF_TISSUE.value: np.concatenate([off_tissue_of(raw), xy[~in_tissue_of(raw)]]),
    }
    return section, section_report(section, numbering, scale, image_shape, n_dropped)


def lattice_of(section: AnnData) -> Lattice:
    """Fit the lattice of a checked section's spots."""
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    return fit_lattice(section.obsm[SPATIAL], index, section.uns[FACTS][Fact.LATTICE])


def off_tissue_of(section: AnnData) -> NDArray[np.float64]:
    """Return (x, y) of the spots that the source calls off the tissue and gives no counts of, (spot, 2), pixels."""
    return np.asarray(section.uns[FACTS].get(Fact.OFF_TISSUE, ()), np.float64).reshape(-1, 2)


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
    n_unmatched = int(facts.get(Fact.UNMATCHED, 0))
    share = n_unmatched / max(n_unmatched + n_matched, 1)
    if share > settings.max_unmatched:
        raise InputError(
            f"{n_unmatched} of {n_unmatched + n_matched} barcodes of the matrix have no position.",
            f"at most {settings.max_unmatched:.0%}.",
            "Matrix and position file are of two sections, or one of them lacks the '-1' at the end of its barcodes.",
        )

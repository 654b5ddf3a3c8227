"""Nodes of the ingestion pipeline."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology import tissue as histology
from spamcaf.histology.placement import like_orientation, require_handedness, require_on_tissue, warn_of_other_image
from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.tissue import Tissue
from spamcaf.names import NO_IMAGE, SECTION_METADATA, SPATIAL, Obs, Part, SectionField
from spamcaf.parameters import GridSettings, PanelSettings, SectionSettings, SplitSettings, TileSettings, TissueSettings
from spamcaf.pipelines.joins import mpp_of, pitch_um_of
from spamcaf.pipelines.types import AnnData, DataFrame, Figure, OtherSections
from spamcaf.provenance import provenance_record
from spamcaf.sections import checks, gene_names, panel, sites, split
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.checks import as_table
from spamcaf.sections.lattice import lattice_steps

logger = logging.getLogger(__name__)

MIN_MAP = 4  # sites: fewer have no extent to draw
MASK_PX_PER_PITCH = 4
"""Pixels of a mask that is made of spots alone, to the distance of two: coarser ones would not follow their outline."""


def check_section(
    raw_section: AnnData, slide: Slide | None, settings: SectionSettings, tissue: TissueSettings
) -> tuple[AnnData, dict[str, Any]]:
    """Return the section that is safe to compute with, and the report of what was checked.

    The image is checked too, before anything is stored: it must show tissue where the spots are. `slide` is None where
    there is no image (`image=none`): then the report says so, and nothing ties the coordinates to an image.
    """
    if slide is None:
        section, report = checks.check_section(raw_section, None, settings)
        logger.info(as_table(report))
        return section, report | provenance_record(slide=NO_IMAGE, image=NO_IMAGE)
    section, report = checks.check_section(raw_section, slide.shape, settings, slide.mpp, slide.name)
    seen = _tissue_in_image(section, slide, tissue)  # without the spots, which are checked against it
    xy, lattice, off_px = np.asarray(section.obsm[SPATIAL]), lattice_of(section), checks.off_tissue_of(section)
    records = section.uns.get(SPATIAL, {}).values()
    is_like = [warn_of_other_image(seen.thumbnail, record.get("images", {}), slide.name) for record in records]
    share = require_on_tissue(seen, xy, lattice, off_px, slide.name, settings.trust_image)
    if lattice.mirrored:
        if not settings.allow_mirrored:
            require_handedness(seen, xy, lattice, off_px)
        logger.warning("the image shows the array mirrored: right only where the image was mirrored on purpose")
    report |= {
        "share_of_spots_on_tissue": round(share, 4),
        # what small images tell of the orientation need not be told by the tissue
        "like_orientation": None if any(is_like) else like_orientation(seen, xy, lattice, off_px),
        "slide_reader": slide.reader,
        "slide_notes": list(slide.notes),
        **provenance_record(slide=slide.fingerprint, image=slide.name),
    }
    logger.info(as_table(report))
    return section, report


def find_tissue(section: AnnData, slide: Slide | None, settings: TissueSettings) -> Tissue:
    """Combine the tissue of the image with that of the spots; without an image it is that of the spots."""
    pitch_px = lattice_of(section).pitch_px
    if slide is None:
        scale = min(max(settings.um_per_px / mpp_of(section), 1.0), pitch_px / MASK_PX_PER_PITCH)
        xy = np.asarray(section.obsm[SPATIAL])
        return Tissue.of_spots(xy, checks.off_tissue_of(section), pitch_px, scale)
    seen = _tissue_in_image(section, slide, settings)
    return seen.marked_by_spots(np.asarray(section.obsm[SPATIAL]), checks.off_tissue_of(section), pitch_px)


def _tissue_in_image(section: AnnData, slide: Slide, settings: TissueSettings) -> Tissue:
    # the spots give the place of the array: no search for a fiducial frame
    return histology.find_tissue(slide, mpp_of(section), settings.model_copy(update={"inside_frame": False}))


def plot_overlay(section: AnnData, tissue: Tissue) -> Figure:
    """Draw the spots on the thumbnail with the outline of the tissue."""
    from spamcaf.reporting import figures

    return figures.plot_overlay(tissue.thumbnail, section.obsm[SPATIAL], 1 / tissue.px_per_mask_px, tissue.mask)


def split_spots(section: AnnData, settings: SplitSettings, tiles: TileSettings, seed: int) -> DataFrame:
    """Hide spots and deal the visible ones over folds; no window of a hidden block reaches a visible spot."""
    mpp = mpp_of(section)
    # one pixel more: a window's corner is rounded to a whole pixel
    window_um = (WindowGeometry.of(tiles, mpp).window_px + 1) * mpp
    reach_um = (window_um + float(section.uns[SECTION_METADATA][SectionField.SPOT_UM])) / 2
    xy_um = np.asarray(section.obsm[SPATIAL], np.float64) * mpp
    index = section.obs[[Obs.ARRAY_COL, Obs.ARRAY_ROW]].to_numpy(np.int64)
    kind = section.uns[SECTION_METADATA][SectionField.LATTICE]
    if kind == "scattered" and settings.protocol == "lattice":
        raise InputError(
            "split.protocol=lattice of scattered spots.", "spots on a lattice.", "Choose random, block or section."
        )
    steps = lattice_steps(index, kind)
    table = split.split_spots(section.obs_names.tolist(), xy_um, reach_um, settings, seed, steps)
    counts = table[split.PART].value_counts()
    logger.info("split by %s: %s", settings.protocol, ", ".join(f"{n} {part}" for part, n in counts.items()))
    return table


def choose_gene_panel(
    section: AnnData, spot_split: DataFrame, other_sections: OtherSections, settings: PanelSettings
) -> tuple[DataFrame, DataFrame]:
    """Choose the genes to predict, and more that gene programs are learned from, among those that all sections share.

    They are chosen on the section's training spots; where all of its spots are hidden, on the other sections.
    """
    others = other_sections.sections()
    shared = section[:, gene_names.is_shared(section, others)]
    training = shared[split.barcodes_of(spot_split, Part.TRAIN)]
    if others and training.n_obs == 0:
        training = gene_names.stack_spots([gene_names.take_genes(other, shared.var) for other in others])
    chosen = panel.choose_gene_panel(training, settings)
    return chosen, panel.choose_program_genes(training, chosen, settings.n_program_genes)


def normalise_expression(section: AnnData, gene_panel: DataFrame, program_genes: DataFrame) -> AnnData:
    """Return log1p of counts per 10 000 for the panel, and for the genes that programs are learned from beside."""
    return panel.normalise_expression(section, gene_panel, program_genes)


def lay_grid(section: AnnData, tissue: Tissue, settings: GridSettings) -> DataFrame:
    """Lay the sites between the spots, and keep those on tissue; spots among them always stay."""
    lattice = lattice_of(section)
    pitch_um = settings.pitch_um
    if pitch_um is None and lattice.kind == "scattered":
        pitch_um = pitch_um_of(section) / settings.subdivide
    if pitch_um is None:
        grid = sites.lay_grid(section, lattice, settings.subdivide)
        asked = f"requested {settings.subdivide**2}, and more at the outline"
    else:
        grid = sites.lay_raster(section, lattice, pitch_um)
        asked = f"{pitch_um:g} um apart"
    on_tissue = tissue.holds(grid[[sites.X_PX, sites.Y_PX]].to_numpy()) | (grid[sites.SUB_INDEX] == 0).to_numpy()
    logger.info(
        "grid: %d sites, %.2f per spot (%s), %d off the tissue dropped",
        on_tissue.sum(), on_tissue.sum() / section.n_obs, asked, (~on_tissue).sum(),
    )  # fmt: skip
    if on_tissue.sum() < MIN_MAP:
        raise InputError(
            f"a map of {on_tissue.sum()} sites on the tissue, {asked}.",
            "sites closer together than the section is wide.",
            f"Choose a smaller distance: --params grid.pitch_um={pitch_um_of(section) / 2:g}.",
        )
    return grid[on_tissue].reset_index(drop=True)

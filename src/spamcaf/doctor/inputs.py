"""Can backbone, section and image be had, do they belong together, and do they hold enough to learn from?"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from spamcaf.backbones.load import BackboneSpec
from spamcaf.backbones.weights import TIMEOUT_S
from spamcaf.datasets.backbone import BackboneDataset
from spamcaf.doctor.check import Check, passed, run_check, unchecked, warned
from spamcaf.doctor.machine import Inputs, in_words
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.names import Obs, Part
from spamcaf.pipelines.joins import mpp_of
from spamcaf.sections.split import PART
from spamcaf.slides.rgb import DecodedPixels

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.backbones.weights import Weights
    from spamcaf.doctor.check import RunRequest
    from spamcaf.parameters import RunSettings

WEIGHTS = "backbone"


def read_spec(request: RunRequest) -> BackboneSpec | None:
    """Return the entry of the backbone asked for, None where the catalog's entry is of another type."""
    dataset = request.catalog["backbone"]
    return dataset.spec() if isinstance(dataset, BackboneDataset) else None


def check_backbone(request: RunRequest) -> tuple[Check, None]:
    """Look for the weights in their package, folder or the hub's cache, else ask the hub for their header alone."""
    dataset = request.catalog["backbone"]
    if not isinstance(dataset, BackboneDataset):
        fix = "None, if a run can load it."
        return warned(WEIGHTS, f"a {type(dataset).__name__}, which this command does not know", fix), None
    spec, weights = dataset.spec(), dataset.probe(TIMEOUT_S)
    found = f"{spec.architecture}, {_where(weights)}, licence {spec.licence}"
    if is_non_commercial(spec.licence):
        return warned(WEIGHTS, found, "None for research: the licence forbids commercial use."), None
    return passed(WEIGHTS, found), None


def is_non_commercial(licence: str) -> bool:
    """Tell whether a licence's short name holds NC, or says so in words."""
    return "NC" in re.split(r"[^A-Z]+", licence.upper()) or "non-commercial" in licence.lower()


def _where(weights: Weights) -> str:
    size = "size unknown" if weights.n_bytes is None else in_words(weights.n_bytes)
    if weights.is_here:
        return f"weights at {weights.place} ({size})"
    return f"weights on the hub, to be downloaded by the first run, access granted ({size})"


SECTION, SLIDE, IDENTITY, PANEL = "section", "slide", "identity", "gene panel"


def check_inputs(request: RunRequest) -> tuple[list[Check], Inputs | None]:
    """Check the section, its slide, whether they belong together, and the gene panel; return their size, if known."""
    fetch = f"Or fetch it: `kedro run --pipeline download {request.words}`." if request.can_download else ""
    section_read, raw = run_check(SECTION, partial(_read_section, request), fetch)
    slide_opened, slide = run_check(SLIDE, partial(_open_slide, request), fetch)
    if raw is None or slide is None:
        first = SECTION if raw is None else SLIDE
        return [section_read, slide_opened, unchecked(IDENTITY, first), unchecked(PANEL, first)], None
    identified, section = run_check(IDENTITY, partial(_check_identity, raw, slide, request.settings))
    if section is None:
        return [section_read, slide_opened, identified, unchecked(PANEL, IDENTITY)], None
    enough, _ = run_check(PANEL, partial(_check_panel, section, request))
    size = Inputs(section.n_obs, slide.shape, _is_held_whole(slide), mpp_of(section))
    return [section_read, slide_opened, identified, enough], size


def _read_section(request: RunRequest) -> tuple[Check, AnnData]:
    raw: AnnData = request.catalog["raw_section"].load()
    n_in_tissue = int((raw.obs[Obs.IN_TISSUE].to_numpy(int) == 1).sum())
    return passed(SECTION, f"{raw.n_obs} spots ({n_in_tissue} under tissue), {raw.n_vars} genes"), raw


def _open_slide(request: RunRequest) -> tuple[Check, Slide]:
    slide: Slide = request.catalog["slide"].load()
    rows, columns = slide.shape
    how = "held in memory whole" if _is_held_whole(slide) else "read in windows"
    by = f" by {slide.reader}" if slide.reader else ""
    return passed(SLIDE, "; ".join([f"{slide.name}, {columns} x {rows} px, {how}{by}", *slide.notes])), slide


def _is_held_whole(slide: Slide) -> bool:
    pixel_array = getattr(slide.pixels, "pixel_array", None)
    return isinstance(slide.pixels, ArrayPixels) or isinstance(pixel_array, DecodedPixels)


def _check_identity(raw: AnnData, slide: Slide, settings: RunSettings) -> tuple[Check, AnnData]:
    from spamcaf.pipelines.ingestion.nodes import check_section

    section, report = check_section(raw, slide, settings.section_checks, settings.tissue)
    found = (
        f"{report['n_spots']} spots with counts, {report['mpp']:.4f} um per pixel, {report['lattice']} lattice within "
        f"{report['lattice_residual_pitches']:.3f} pitches, {report['share_of_spots_on_tissue']:.0%} on tissue"
    )
    n_outside = sum(report["n_spots_outside_image"].values())
    if n_outside:
        fix = "Check that the image is the full one: what lies outside is taken for white glass."
        return warned(IDENTITY, f"{found}; {n_outside} spots lie outside the image", fix), section
    return passed(IDENTITY, found), section


def _check_panel(section: AnnData, request: RunRequest) -> tuple[Check, None]:
    from spamcaf.pipelines.ingestion.nodes import choose_gene_panel, split_spots

    settings = request.settings
    split = split_spots(section, settings.split, settings.tiles, settings.seed)
    # both methods choose from the same genes; the ranking of moran takes longer
    ranked = settings.panel.model_copy(update={"method": "seurat_v3"})
    panel = choose_gene_panel(section, split, request.catalog["other_sections"].load(), ranked)
    n_training = (split[PART] == Part.TRAIN).sum()
    return passed(PANEL, f"{len(panel)} genes can be learned from {n_training} training spots"), None

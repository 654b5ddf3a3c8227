"""Checks of a run's inputs: can section, image and backbone be had, do they fit, and are they enough to train on?"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from spamcaf.backbones.weights import TIMEOUT_S
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.doctor.check import Check, Finding, RunRequest, Status, run_check, skip_check
from spamcaf.doctor.machine import Inputs
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.names import NO_IMAGE, SECTION_METADATA, Obs, Part, SectionField
from spamcaf.pipelines.joins import mpp_of, pitch_um_of
from spamcaf.progress import bytes_in_words
from spamcaf.readers.visium_hd import VisiumHDReader
from spamcaf.sections.split import PART
from spamcaf.slides.rgb import DecodedPixels

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.backbones.load import BackboneSpec
    from spamcaf.parameters import RunSettings


def read_spec(request: RunRequest) -> BackboneSpec | None:
    """Return the chosen backbone's entry, None where the catalog's entry is of another type."""
    dataset = request.catalog["backbone"]
    if not isinstance(dataset, BackboneDataset):
        return None
    from spamcaf.backbones.load import BackboneSpec

    return BackboneSpec(source=NO_IMAGE, architecture=NO_IMAGE, width=1) if dataset.is_blind else dataset.spec()


def check_backbone(request: RunRequest) -> Finding[None]:
    """Look for the weights in their package, folder or the hub's cache, else request only their header from the hub."""
    dataset = request.catalog["backbone"]
    if not isinstance(dataset, BackboneDataset):
        return Finding(f"a {type(dataset).__name__}, which this command does not know", "None, if a run can load it.")
    if dataset.is_blind:
        return Finding("none, as there is no image to see")
    spec, weights = dataset.spec(), dataset.probe(TIMEOUT_S)
    size = "size unknown" if weights.n_bytes is None else bytes_in_words(weights.n_bytes)
    hub = "weights on the hub, to be downloaded by the first run, access granted"
    place = f"weights at {weights.place}" if weights.is_here else hub
    found = f"{spec.architecture}, {place} ({size}), licence {spec.licence}"
    fix = "None for research: the licence forbids commercial use." if is_non_commercial(spec.licence) else ""
    return Finding(found, fix)


def check_references(request: RunRequest) -> Finding[None]:
    """Look for the counts that gene programs are to be learned from too; reads none."""
    found = request.catalog["references"].find().found
    return Finding(f"counts of {', '.join(found)}" if found else "no counts beside the section's own are named")


def is_non_commercial(licence: str) -> bool:
    """Return whether a licence's short name contains NC, or `non-commercial` in full."""
    return "NC" in re.split(r"[^A-Z]+", licence.upper()) or "non-commercial" in licence.lower()


def check_inputs(request: RunRequest) -> tuple[list[Check], Inputs | None]:
    """Check the section, its slide, whether they belong together, and the gene panel; return their size, if known."""
    fetch = f"Or fetch it: `kedro run --pipelines download {request.words}`." if request.can_download else ""
    section_read, raw = run_check("section", partial(_read_section, request), fetch)
    slide_opened, slide = run_check("slide", partial(_open_slide, request), fetch)
    checks = [section_read, slide_opened]
    if raw is None or slide_opened.status is Status.FAIL:
        first = "section" if raw is None else "slide"
        return [*checks, skip_check("identity", first), skip_check("gene panel", first)], None
    identified, section = run_check("identity", partial(_check_identity, raw, slide, request.settings))
    if section is None:
        return [*checks, identified, skip_check("gene panel", "identity")], None
    enough, _ = run_check("gene panel", partial(_check_panel, section, request))
    is_hd = section.uns[SECTION_METADATA].get(SectionField.LAYOUT) == VisiumHDReader.kind
    bin_um = pitch_um_of(section) if is_hd else None
    shape, is_whole = ((0, 0), False) if slide is None else (slide.shape, _is_held_whole(slide))
    size = Inputs(section.n_obs, shape, is_whole, mpp_of(section), bin_um, pitch_um_of(section))
    return [*checks, identified, enough], size


def _read_section(request: RunRequest) -> Finding[AnnData]:
    raw: AnnData = request.catalog["raw_section"].load()
    n_in_tissue = int((raw.obs[Obs.IN_TISSUE].to_numpy(int) == 1).sum())
    return Finding(f"{raw.n_obs} spots ({n_in_tissue} under tissue), {raw.n_vars} genes", value=raw)


def _open_slide(request: RunRequest) -> Finding[Slide | None]:
    slide: Slide | None = request.catalog["slide"].load()
    if slide is None:
        return Finding("none, as image=none asks: coordinates and expression alone are used")
    rows, columns = slide.shape
    how = "held in memory whole" if _is_held_whole(slide) else "read in windows"
    by = f" by {slide.reader}" if slide.reader else ""
    return Finding("; ".join([f"{slide.name}, {columns} x {rows} px, {how}{by}", *slide.notes]), value=slide)


def _is_held_whole(slide: Slide) -> bool:
    pixel_array = getattr(slide.pixels, "pixel_array", None)
    return isinstance(slide.pixels, ArrayPixels) or isinstance(pixel_array, DecodedPixels)


def _check_identity(raw: AnnData, slide: Slide | None, settings: RunSettings) -> Finding[AnnData]:
    from spamcaf.pipelines.ingestion.nodes import check_section

    section, report = check_section(raw, slide, settings.section_checks, settings.tissue)
    found = (
        f"{report['n_spots']} spots with counts, {report['mpp']:.4f} um per pixel, {report['lattice']} lattice within "
        f"{report['lattice_residual_pitches']:.3f} pitches"
    )
    if slide is not None:
        found += f", {report['share_of_spots_on_tissue']:.0%} on tissue"
    if n_outside := sum(report["n_spots_outside_image"].values()):
        fix = "Check that the image is the full one: beyond its edge white glass is assumed."
        return Finding(f"{found}; {n_outside} spots lie outside the image", fix, section)
    if other := report.get("like_orientation"):
        fix = "Look at section_overlay.png of a first run: do spots and tissue belong together as they lie?"
        return Finding(f"{found}; the orientation cannot be told: {other} fits the tissue about as well", fix, section)
    return Finding(found, value=section)


def _check_panel(section: AnnData, request: RunRequest) -> Finding[None]:
    from spamcaf.pipelines.ingestion.nodes import choose_gene_panel, split_spots

    settings = request.settings
    split = split_spots(section, settings.split, settings.tiles, settings.seed)
    # both methods choose from the same genes; the ranking of moran takes longer
    ranked = settings.panel.model_copy(update={"method": "seurat_v3"})
    panel, _ = choose_gene_panel(section, split, request.catalog["other_sections"].load(), ranked)
    n_training = (split[PART] == Part.TRAIN).sum()
    return Finding(f"{len(panel)} genes can be learned from {n_training} training spots")

"""What the identity check saw, as plain data and as a short table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.names import FACTS, SPATIAL, Fact
from spamcaf.sections.picture import count_outside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from spamcaf.sections.numbering import Numbering
    from spamcaf.sections.scale import Scale


def section_report(
    section: AnnData, numbering: Numbering, scale: Scale, image_shape: tuple[int, int], n_dropped: Mapping[str, int]
) -> dict[str, Any]:
    """Return the record of a section that passed, as plain data."""
    facts, lattice = section.uns[FACTS], numbering.lattice
    return {
        "section": str(facts[Fact.NAME]),
        **{key: str(facts[key]) for key in (Fact.LAYOUT.value, Fact.COUNTS.value) if key in facts},
        "n_spots": int(section.n_obs),
        "n_genes": int(section.n_vars),
        "n_genes_constant": _count_constant_genes(section),
        "n_spots_dropped": {**n_dropped, "unmatched": int(facts.get(Fact.UNMATCHED, 0))},
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
        "layout": report.get(Fact.LAYOUT.value),
        "counts from": report.get(Fact.COUNTS.value),
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

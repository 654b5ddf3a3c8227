"""Micrometres per pixel, pitch and spot size: from the lattice, the source and the image, compared."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError
from spamcaf.names import Fact
from spamcaf.sections import visium

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spamcaf.parameters import SectionSettings
    from spamcaf.sections.lattice import Lattice

logger = logging.getLogger(__name__)

SPOT_SHARE = visium.SPOT_UM / visium.PITCH_UM
"""Spot diameter over pitch where nothing is known: Visium's."""
PLAUSIBLE_MPP = (0.05, 3.0)
"""Micrometres per pixel of a full-resolution image; a Visium thumbnail of 2000 px has 3.3 or more."""

MICROMETRES = 0.005
"""So near to one micrometre per pixel, coordinates may be in micrometres."""


@dataclass(frozen=True)
class Scale:
    """Micrometres per full-resolution pixel, nominal pitch and spot diameter in micrometres.

    `mpp_by` holds the micrometres per pixel by source: lattice, scale factors, image; None where a source is silent.
    """

    mpp: float
    pitch_um: float
    spot_um: float
    mpp_by: dict[str, float | None]


def settle_scale(
    lattice: Lattice, facts: Mapping[str, Any], image_mpp: float | None, settings: SectionSettings
) -> Scale:
    """Return the scale; raise InputError when the sources contradict each other, or none says anything.

    `facts` are those of the source, `image_mpp` what the image file says, in micrometres per pixel. The lattice is
    believed before the scale factors, and these before the image, whose tags are often wrong.
    """
    stated = None if facts.get(Fact.MPP) is None else float(facts[Fact.MPP])
    pitch_um = _nominal_pitch(lattice, facts, settings)
    by_lattice = None if pitch_um is None else pitch_um / lattice.pitch_px
    _require_agreement(by_lattice, stated, image_mpp, settings.max_mpp_disagreement)
    mpp = _require_plausible(by_lattice or stated or image_mpp, lattice)
    pitch_um = pitch_um or mpp * lattice.pitch_px
    spot_um = float(facts.get(Fact.SPOT_UM) or SPOT_SHARE * pitch_um)
    return Scale(mpp, pitch_um, spot_um, {"lattice": by_lattice, "scale factors": stated, "image": image_mpp})


def _nominal_pitch(lattice: Lattice, facts: Mapping[str, Any], settings: SectionSettings) -> float | None:
    if facts.get(Fact.PITCH_UM) is not None:
        return float(facts[Fact.PITCH_UM])
    # every hexagonal spot array on the market is Visium
    return settings.pitch_um or (visium.PITCH_UM if lattice.kind == "hexagonal" else None)


def _require_agreement(by_lattice: float | None, stated: float | None, by_image: float | None, limit: float) -> None:
    if by_lattice and stated and abs(by_lattice / stated - 1) > limit:
        raise InputError(
            f"{stated:.4f} um per pixel by the scale factors, {by_lattice:.4f} by the lattice.",
            f"the same within {limit:.0%}.",
            "Scale factors and positions are not of one section, or the coordinates are not full-resolution pixels.",
        )
    believed = by_lattice or stated
    if not believed or not by_image or abs(believed / by_image - 1) <= limit:
        return
    if not stated and abs(believed - 1) < MICROMETRES:
        raise InputError(
            f"spots exactly as many pixels as micrometres apart, in an image of {by_image:.4f} um per pixel.",
            "coordinates in full-resolution pixels.",
            "The coordinates seem to be in micrometres: divide them by the um per pixel of the image.",
        )
    logger.warning("the image file says %.4f um per pixel, the section %.4f, which is used", by_image, believed)


def _require_plausible(mpp: float | None, lattice: Lattice) -> float:
    if mpp is None:
        raise InputError(
            f"spots {lattice.pitch_px:.1f} px apart on a square lattice, and nothing that says how far that is.",
            "the distance of neighbouring spots in micrometres.",
            "Pass it: --params section_checks.pitch_um=<um>, 200 for legacy ST, 16 or 8 for Visium HD bins.",
        )
    lowest, highest = PLAUSIBLE_MPP
    if not lowest <= mpp <= highest:
        raise InputError(
            f"{mpp:.4g} um per pixel.",
            f"{lowest:g} to {highest:g}, as a full-resolution image has.",
            "Give image and coordinates at full resolution, in pixels; or pass --params section_checks.pitch_um=<um>.",
        )
    return mpp

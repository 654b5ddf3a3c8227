"""Micrometres per pixel of a section: from the lattice of its spots, cross-checked against all that files state."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError
from spamcaf.names import ScaleFactor, SectionField

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spamcaf.parameters import SectionSettings
    from spamcaf.sections.lattice import Lattice

PITCH_UM = 100.0
SPOT_UM = 55.0
"""Diameter of a printed spot."""
FIDUCIAL_UM = 105.0
"""Diameter of a dot of the fiducial frame, `fiducial_diameter_fullres` in all generations of Space Ranger."""
STATED_SPOT_UM = (65.0, 70.0, 60.0, 55.0)
"""What `spot_diameter_fullres` stands for: 65 um in direct Visium of later Space Ranger, 70 in its first version, as in
all DLPFC sections, 60 with CytAssist, and 55 as other tools write it."""


logger = logging.getLogger(__name__)

SPOT_SHARE = SPOT_UM / PITCH_UM
"""Spot diameter over pitch where nothing is known: Visium's."""
PLAUSIBLE_MPP = (0.05, 3.0)
"""Micrometres per pixel of a full-resolution image; a Visium thumbnail of 2000 px has 3.3 or more."""
RATIO_TOLERANCE = 0.02
"""How far fiducial over spot diameter may be from that of a Space Ranger generation (1.50, 1.62, 1.75) or converter."""
MICROMETRES = 0.005
"""So near to one micrometre per pixel, which no scanner has, coordinates seem to be in micrometres."""
ARRAY_STEPS_PX = 4.0
"""Neighbouring spots nearer than this many pixels: the coordinates seem to be array rows and columns."""
LATTICE, STATED, FIDUCIALS, SPOTS, IMAGE = "lattice", "file", "fiducials", "spot diameter", "image"


@dataclass(frozen=True)
class Scale:
    """The scale of a section.

    Attributes
    ----------
    mpp
        Micrometres per full-resolution pixel.
    pitch_um, spot_um
        Nominal distance of neighbouring spots and diameter of a spot, micrometres.
    mpp_by
        Micrometres per pixel by source (lattice, file, fiducials, spot diameter, image), None where one is silent.
    """

    mpp: float
    pitch_um: float
    spot_um: float
    mpp_by: dict[str, float | None]


def resolve_scale(
    lattice: Lattice,
    facts: Mapping[str, Any],
    image_mpp: float | None,
    settings: SectionSettings,
    picture_scales: Mapping[str, float] | None = None,
) -> Scale:
    """Return the scale of a section.

    The lattice decides, since the distance of spots is the same in all files of a kind; a file that states micrometres
    per pixel for square bins, as Visium HD's do, is taken by its word. All else is compared with it: fiducials of
    105 um, the spot diameter, which stands for 70, 65 or 60 um by generation of Space Ranger and for 55 um in other
    tools' files, and the image's own tags.

    Parameters
    ----------
    lattice
        Fitted to the spots' coordinates, full-resolution pixels.
    facts
        What the source says, see `spamcaf.names.SectionField`.
    image_mpp
        Micrometres per pixel that the image file states, if any.
    settings
        Limits, and the pitch where the user states it.
    picture_scales
        Scale factors of the small pictures, to recognise coordinates in their pixels.

    Raises
    ------
    InputError
        When nothing that files state agrees with the lattice, naming each estimate; when nothing says how far apart
        the spots are; when the coordinates seem to be micrometres, array indices or pixels of a small picture.
    """
    _refuse_array_indices(lattice)
    pitch_um = _nominal_pitch(lattice, facts, settings)
    by_lattice = None if pitch_um is None else pitch_um / lattice.pitch_px
    estimates = _estimates(facts, image_mpp, by_lattice)
    stated = estimates.mpp_by[STATED]
    by_file = stated and lattice.kind == "square" and settings.pitch_um is None
    mpp = stated if by_file or by_lattice is None else by_lattice
    if by_lattice is not None:
        _require_agreement(by_lattice, estimates, lattice, settings, picture_scales or {})
        _warn_of_others(mpp or by_lattice, {LATTICE: by_lattice, **estimates.mpp_by}, settings.max_mpp_disagreement)
    mpp = _require_plausible(mpp or image_mpp, lattice)
    pitch_um = pitch_um or mpp * lattice.pitch_px
    is_of_source = settings.pitch_um in (None, facts.get(SectionField.PITCH_UM))
    spot_um = float((is_of_source and facts.get(SectionField.SPOT_UM)) or SPOT_SHARE * pitch_um)
    return Scale(mpp, pitch_um, spot_um, {LATTICE: by_lattice, **estimates.mpp_by})


@dataclass(frozen=True)
class _Estimates:
    """Micrometres per pixel by source other than the lattice, and the sources that are sure of themselves."""

    mpp_by: dict[str, float | None]
    sure: tuple[str, ...]

    def agreeing(self, mpp: float, limit: float) -> list[str]:
        """Return the sources that say `mpp`."""
        return [source for source, value in self.mpp_by.items() if value and abs(mpp / value - 1) <= limit]

    def in_words(self) -> str:
        """Return what each source says, for a message."""
        said = [f"{value:.4f} by the {source}" for source, value in self.mpp_by.items() if value]
        return ", ".join(said)


def _estimates(facts: Mapping[str, Any], image_mpp: float | None, by_lattice: float | None) -> _Estimates:
    stated, fiducial_px, spot_px = (
        _number(facts.get(key)) for key in (SectionField.MPP, SectionField.FIDUCIAL_PX, SectionField.SPOT_PX)
    )
    spot_um = _spot_um(fiducial_px, spot_px, by_lattice)
    is_consistent = spot_px is None or fiducial_px is None or _is_known_ratio(fiducial_px / spot_px)
    mpp_by = {
        STATED: stated,
        FIDUCIALS: FIDUCIAL_UM / fiducial_px if fiducial_px else None,
        SPOTS: spot_um / spot_px if spot_px else None,
        IMAGE: image_mpp,
    }
    # a spot diameter alone may be of any generation; placeholders (1, 1 and 100) contradict each other
    sure = [STATED] if stated else []
    return _Estimates(mpp_by, (*sure, FIDUCIALS) if fiducial_px and is_consistent else tuple(sure))


def _spot_um(fiducial_px: float | None, spot_px: float | None, by_lattice: float | None) -> float:
    """Return what the spot diameter stands for: by its ratio to the fiducials, else by what the lattice says."""
    if spot_px and fiducial_px:
        apparent_um = FIDUCIAL_UM * spot_px / fiducial_px
    elif spot_px and by_lattice:
        apparent_um = spot_px * by_lattice
    else:
        return STATED_SPOT_UM[0]
    return min(STATED_SPOT_UM, key=lambda known: abs(known - apparent_um))


def _is_known_ratio(ratio: float) -> bool:
    return any(abs(ratio * um / FIDUCIAL_UM - 1) <= RATIO_TOLERANCE for um in STATED_SPOT_UM)


def _nominal_pitch(lattice: Lattice, facts: Mapping[str, Any], settings: SectionSettings) -> float | None:
    if settings.pitch_um is not None:
        return settings.pitch_um
    if facts.get(SectionField.PITCH_UM) is not None:
        return float(facts[SectionField.PITCH_UM])
    # every hexagonal spot array on the market is Visium
    return PITCH_UM if lattice.kind == "hexagonal" else None


def _require_agreement(
    by_lattice: float,
    estimates: _Estimates,
    lattice: Lattice,
    settings: SectionSettings,
    picture_scales: Mapping[str, float],
) -> None:
    """Raise InputError where no source agrees with the lattice, and one is sure of itself."""
    limit = settings.max_mpp_disagreement
    agreeing = estimates.agreeing(by_lattice, limit)
    if agreeing == [SPOTS] and estimates.sure and not estimates.mpp_by[FIDUCIALS]:
        agreeing = []  # what a spot diameter alone stands for was told by the lattice itself
    if not agreeing:
        _refuse_micrometres(by_lattice, lattice, settings)
        _refuse_small_picture(by_lattice, estimates, picture_scales, limit)
        image, spots = estimates.mpp_by[IMAGE], estimates.mpp_by[SPOTS]
        # each of the two may be wrong by itself: both wrong in the same way is no chance
        confirm_each_other = bool(image and spots and abs(image / spots - 1) <= limit)
        if estimates.sure or confirm_each_other:
            raise InputError(
                f"{by_lattice:.4f} um per pixel by the {LATTICE} (spots {lattice.pitch_px:.1f} px apart), but "
                f"{estimates.in_words()}.",
                f"one of them the same as the lattice within {limit:.0%}.",
                "Scale factors and positions are not of one section, or the coordinates are not full-resolution "
                "pixels. If the lattice is right all the same: --params section_checks.max_mpp_disagreement=<share>; "
                "if its spots are otherwise far apart: section_checks.pitch_um=<um>.",
            )


def _warn_of_others(mpp: float, mpp_by: Mapping[str, float | None], limit: float) -> None:
    for source, value in mpp_by.items():
        if value and abs(mpp / value - 1) > limit:
            logger.warning("%.4f um per pixel by the %s; %.4f is used", value, source, mpp)


def _refuse_micrometres(by_lattice: float, lattice: Lattice, settings: SectionSettings) -> None:
    if settings.pitch_um is None and abs(by_lattice - 1) < MICROMETRES:
        raise InputError(
            f"spots exactly as many pixels as micrometres apart ({lattice.pitch_px:.1f}), and nothing that confirms "
            "one micrometre per pixel.",
            "coordinates in full-resolution pixels.",
            "The coordinates seem to be in micrometres: divide them by the micrometres per pixel of the image. If its "
            f"pixels really are 1 um wide: --params section_checks.pitch_um={lattice.pitch_px:.0f}.",
        )


def _refuse_small_picture(
    by_lattice: float, estimates: _Estimates, picture_scales: Mapping[str, float], limit: float
) -> None:
    for name, key in (("hires", ScaleFactor.HIRES), ("lowres", ScaleFactor.LOWRES)):
        factor = picture_scales.get(key)
        if factor and factor < 1 and estimates.agreeing(by_lattice * factor, limit):
            raise InputError(
                f"coordinates in pixels of the {name} picture: {by_lattice:.4f} um per pixel by the lattice.",
                f"full-resolution pixels: {estimates.in_words()}.",
                f"Divide the coordinates by {key.value} = {factor:g}.",
            )


def _refuse_array_indices(lattice: Lattice) -> None:
    if lattice.pitch_px < ARRAY_STEPS_PX:
        raise InputError(
            f"spots {lattice.pitch_px:.2f} px apart.",
            "coordinates in pixels of the full-resolution image.",
            "The coordinates seem to be array rows and columns: give the spots' pixel coordinates.",
        )


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


def _number(value: Any) -> float | None:  # noqa: ANN401  whatever a file held there
    return None if value is None else float(value)

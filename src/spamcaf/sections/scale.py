"""Micrometres per pixel of a section: from the lattice of its spots, cross-checked against all that files state."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spamcaf.errors import InputError
from spamcaf.names import ScaleFactor, SectionField

if TYPE_CHECKING:
    from spamcaf.parameters import SectionSettings
    from spamcaf.sections.lattice import Lattice

logger = logging.getLogger(__name__)

PITCH_UM = 100.0
SPOT_UM = 55.0  # diameter of a printed spot
FIDUCIAL_UM = 105.0  # of a dot of the fiducial frame, `fiducial_diameter_fullres` in all generations of Space Ranger
STATED_SPOT_UM = (65.0, 70.0, 60.0, 55.0)
"""What `spot_diameter_fullres` stands for: 65 um in direct Visium of later Space Ranger, 70 in its first version, as in
all DLPFC sections, 60 with CytAssist, and 55 as other tools write it."""

_SPOT_SHARE = SPOT_UM / PITCH_UM  # spot diameter over pitch where nothing is known: Visium's
_PLAUSIBLE_MPP = (0.05, 3.0)  # of a full-resolution image; a Visium thumbnail of 2000 px has 3.3 um or more
# how far fiducial over spot diameter may be from that of a Space Ranger generation (1.50, 1.62, 1.75) or converter
_RATIO_TOLERANCE = 0.02
_MICROMETRES = 0.005  # so near to one micrometre per pixel, which no scanner has, coordinates seem to be in micrometres
_ARRAY_STEPS_PX = 4.0  # with neighbouring spots nearer than this, coordinates seem to be array rows and columns
_LATTICE, _STATED, _FIDUCIALS, _SPOTS, _IMAGE = "lattice", "file", "fiducials", "spot diameter", "image"


@dataclass(frozen=True)
class Scale:
    """The scale of a section."""

    mpp: float  # micrometres per full-resolution pixel
    pitch_um: float  # nominal distance of neighbouring spots
    spot_um: float  # nominal diameter of a spot
    mpp_by: dict[str, float | None]  # by source: lattice, file, fiducials, spot diameter, image; None where it has none


def resolve_scale(
    lattice: Lattice,
    metadata: Mapping[str, Any],
    image_mpp: float | None,
    settings: SectionSettings,
    thumbnail_scales: Mapping[str, float] | None = None,
) -> Scale:
    """Return the scale of a section.

    The lattice decides, since the distance of spots is the same in all files of a kind; of square bins, such as Visium
    HD's, a scale that the file states decides. All other sources are compared with it: fiducials of 105 um, the spot
    diameter, which stands for 70, 65 or 60 um by generation of Space Ranger and for 55 um in other tools' files, and
    the image's own tags (`image_mpp`). `thumbnail_scales` tell whether coordinates are in a thumbnail's pixels.

    Raises
    ------
    InputError : when nothing that files state agrees with the lattice, naming each estimate; when nothing states how
        far apart the spots are; when the coordinates seem to be micrometres, array indices or pixels of a thumbnail
    """
    if lattice.kind == "scattered":
        return _of_scattered(lattice, metadata, image_mpp, settings)
    if lattice.pitch_px < _ARRAY_STEPS_PX:
        raise InputError(
            f"spots {lattice.pitch_px:.2f} px apart.",
            "coordinates in pixels of the full-resolution image.",
            "The coordinates seem to be array rows and columns: give the spots' pixel coordinates.",
        )
    pitch_um = settings.pitch_um or _number(metadata, SectionField.PITCH_UM)
    if pitch_um is None and lattice.kind == "hexagonal":
        pitch_um = PITCH_UM  # every hexagonal spot array on the market is Visium
    by_lattice = None if pitch_um is None else pitch_um / lattice.pitch_px
    mpp_by, is_sure = _estimates(metadata, image_mpp, by_lattice)
    is_of_bins = mpp_by[_STATED] and lattice.kind == "square" and settings.pitch_um is None
    mpp = mpp_by[_STATED] if is_of_bins or by_lattice is None else by_lattice
    if by_lattice is not None:
        _require_agreement(by_lattice, mpp_by, is_sure, lattice, settings, thumbnail_scales or {})
        for source, value in {_LATTICE: by_lattice, **mpp_by}.items():
            if value and mpp and abs(mpp / value - 1) > settings.max_mpp_disagreement:
                logger.warning("%.4f um per pixel by the %s; %.4f is used", value, source, mpp)
    mpp = _require_plausible(mpp or image_mpp, lattice)
    pitch_um = pitch_um or mpp * lattice.pitch_px
    is_of_source = settings.pitch_um in (None, metadata.get(SectionField.PITCH_UM))
    spot_um = float((is_of_source and metadata.get(SectionField.SPOT_UM)) or _SPOT_SHARE * pitch_um)
    return Scale(mpp, pitch_um, spot_um, {_LATTICE: by_lattice, **mpp_by})


def _of_scattered(
    lattice: Lattice, metadata: Mapping[str, Any], image_mpp: float | None, settings: SectionSettings
) -> Scale:
    """Return the scale of scattered spots, which no lattice tells: that of the settings, a file or the image."""
    stated = _number(metadata, SectionField.MPP)
    mpp = settings.mpp or stated or image_mpp
    if mpp is None:
        raise InputError(
            "scattered spots (section_checks.scattered), and nothing that states the unit of their coordinates.",
            "micrometres per unit.",
            "Pass it: --params section_checks.mpp=1 for coordinates in micrometres, 0.65 for pixels of Slide-seq.",
        )
    pitch_um = settings.pitch_um or mpp * lattice.pitch_px
    spot_um = _number(metadata, SectionField.SPOT_UM) or _SPOT_SHARE * pitch_um
    return Scale(mpp, pitch_um, spot_um, {_LATTICE: None, _STATED: settings.mpp or stated, _IMAGE: image_mpp})


def _estimates(
    metadata: Mapping[str, Any], image_mpp: float | None, by_lattice: float | None
) -> tuple[dict[str, float | None], bool]:
    """Return micrometres per pixel by source other than the lattice, and whether one of them is sure."""
    stated, fiducial_px, spot_px = (
        _number(metadata, key) for key in (SectionField.MPP, SectionField.FIDUCIAL_PX, SectionField.SPOT_PX)
    )
    by_fiducials = FIDUCIAL_UM / fiducial_px if fiducial_px else None
    # which of the known diameters is meant: by its ratio to the fiducials, else by the lattice
    apparent_um = (spot_px or 0) * (by_fiducials or by_lattice or 0) or STATED_SPOT_UM[0]
    spot_um = min(STATED_SPOT_UM, key=lambda known: abs(known - apparent_um))
    by_spots = spot_um / spot_px if spot_px else None
    # a spot diameter alone may be of any generation; placeholders (1, 1 and 100) contradict each other
    is_consistent = abs(spot_um / apparent_um - 1) <= _RATIO_TOLERANCE
    mpp_by = {_STATED: stated, _FIDUCIALS: by_fiducials, _SPOTS: by_spots, _IMAGE: image_mpp}
    return mpp_by, bool(stated or (fiducial_px and is_consistent))


def _agreeing(mpp_by: Mapping[str, float | None], mpp: float, limit: float) -> list[str]:
    """Return the sources that agree with `mpp`."""
    return [source for source, value in mpp_by.items() if value and abs(mpp / value - 1) <= limit]


def _require_agreement(
    by_lattice: float,
    mpp_by: Mapping[str, float | None],
    is_sure: bool,
    lattice: Lattice,
    settings: SectionSettings,
    thumbnail_scales: Mapping[str, float],
) -> None:
    """Raise InputError where no source agrees with the lattice, and one is sure."""
    limit = settings.max_mpp_disagreement
    agreeing = _agreeing(mpp_by, by_lattice, limit)
    # what a spot diameter alone stands for was inferred from the lattice itself
    if agreeing and not (agreeing == [_SPOTS] and is_sure and not mpp_by[_FIDUCIALS]):
        return
    if settings.pitch_um is None and abs(by_lattice - 1) < _MICROMETRES:
        raise InputError(
            f"spots exactly as many pixels as micrometres apart ({lattice.pitch_px:.1f}), and nothing that confirms "
            "one micrometre per pixel.",
            "coordinates in full-resolution pixels.",
            "The coordinates seem to be in micrometres: divide them by the micrometres per pixel of the image. If its "
            f"pixels really are 1 um wide: --params section_checks.pitch_um={lattice.pitch_px:.0f}.",
        )
    estimates = ", ".join(f"{value:.4f} by the {source}" for source, value in mpp_by.items() if value)
    for name, key in (("hires", ScaleFactor.HIRES), ("lowres", ScaleFactor.LOWRES)):
        factor = thumbnail_scales.get(key)
        if factor and factor < 1 and _agreeing(mpp_by, by_lattice * factor, limit):
            raise InputError(
                f"coordinates in pixels of the {name} image: {by_lattice:.4f} um per pixel by the lattice.",
                f"full-resolution pixels: {estimates}.",
                f"Divide the coordinates by {key.value} = {factor:g}.",
            )
    image, spots = mpp_by[_IMAGE], mpp_by[_SPOTS]
    # each of the two may be wrong by itself: both wrong in the same way is no chance
    confirm_each_other = bool(image and spots and abs(image / spots - 1) <= limit)
    if is_sure or confirm_each_other:
        raise InputError(
            f"{by_lattice:.4f} um per pixel by the {_LATTICE} (spots {lattice.pitch_px:.1f} px apart), but "
            f"{estimates}.",
            f"one of them the same as the lattice within {limit:.0%}.",
            "Scale factors and positions are not of one section, or the coordinates are not full-resolution "
            "pixels. If the lattice is right all the same: --params section_checks.max_mpp_disagreement=<share>; "
            "if its spots are otherwise far apart: section_checks.pitch_um=<um>.",
        )


def _require_plausible(mpp: float | None, lattice: Lattice) -> float:
    if mpp is None:
        raise InputError(
            f"spots {lattice.pitch_px:.1f} px apart on a square lattice, and nothing that states how far that is.",
            "the distance of neighbouring spots in micrometres.",
            "Pass it: --params section_checks.pitch_um=<um>, 200 for legacy ST, 16 or 8 for Visium HD bins.",
        )
    lowest, highest = _PLAUSIBLE_MPP
    if not lowest <= mpp <= highest:
        raise InputError(
            f"{mpp:.4g} um per pixel.",
            f"{lowest:g} to {highest:g}, as a full-resolution image has.",
            "Give image and coordinates at full resolution, in pixels; or pass --params section_checks.pitch_um=<um>.",
        )
    return mpp


def _number(metadata: Mapping[str, Any], key: SectionField) -> float | None:
    value = metadata.get(key)
    return None if value is None else float(value)

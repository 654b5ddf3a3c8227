"""Micrometres per pixel come from the lattice; what files state is compared with it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.names import SectionField
from spamcaf.parameters import SectionSettings
from spamcaf.sections.lattice import UNIT_BASIS, Lattice, LatticeKind
from spamcaf.sections.scale import resolve_scale

SETTINGS = SectionSettings()


def lattice(kind: LatticeKind, pitch_px: float = 200.0) -> Lattice:
    return Lattice(kind, np.zeros(2), UNIT_BASIS[kind] * pitch_px, 0.0)


@pytest.mark.parametrize(
    ("kind", "metadata", "image_mpp", "pitch_um", "expected"),
    [
        ("hexagonal", {}, None, None, (0.5, 100, 55)),
        ("hexagonal", {}, 0.25, None, (0.5, 100, 55)),
        ("hexagonal", {}, None, 120, (0.6, 120, 66)),
        ("hexagonal", {"pitch_um": 110}, None, None, (0.55, 110, 60.5)),
        ("hexagonal", {"pitch_um": 100, "spot_diameter_um": 55}, None, 50, (0.25, 50, 27.5)),
        ("hexagonal", {"mpp": 0.51, "spot_diameter_um": 65}, None, None, (0.5, 100, 65)),
        ("square", {"pitch_um": 16.0, "spot_diameter_um": 16.0, "mpp": 0.0802}, None, None, (0.0802, 16, 16)),
        ("square", {"mpp": 0.4}, 0.7, None, (0.4, 80, 44)),
        ("square", {}, 0.7, None, (0.7, 140, 77)),
        ("square", {}, 0.7, 200, (1.0, 200, 110)),
    ],
)
def test_the_surest_source_is_believed(
    kind: LatticeKind, metadata: dict[str, Any], image_mpp: float | None, pitch_um: float | None, expected: tuple[float]
) -> None:
    if image_mpp and pitch_um:
        image_mpp = 1.0
    scale = resolve_scale(lattice(kind), metadata, image_mpp, SectionSettings(pitch_um=pitch_um))
    assert (scale.mpp, scale.pitch_um, scale.spot_um) == pytest.approx(expected)
    assert scale.mpp_by["file"] == metadata.get("mpp")
    assert scale.mpp_by["image"] == image_mpp


def visium(spot_um: float, fiducial_um: float = 105.0, mpp: float = 0.5) -> dict[str, float]:
    """Scale factors of a section of 0.5 um per pixel whose spot diameter stands for `spot_um`."""
    return {
        SectionField.SPOT_PX: spot_um / mpp,
        SectionField.FIDUCIAL_PX: fiducial_um / mpp,
        SectionField.PITCH_UM: 100.0,
    }


@pytest.mark.parametrize("spot_um", [70, 65, 60, 55])
def test_the_spot_diameter_of_every_generation_agrees(spot_um: float, caplog: pytest.LogCaptureFixture) -> None:
    scale = resolve_scale(lattice("hexagonal"), visium(spot_um), None, SETTINGS)
    assert scale.mpp == pytest.approx(0.5)
    assert scale.spot_um == pytest.approx(55), "the printed spot, whatever the file calls its diameter"
    assert scale.mpp_by["fiducials"] == pytest.approx(0.5) and scale.mpp_by["spot diameter"] == pytest.approx(0.5)
    assert not caplog.records


@pytest.mark.parametrize("spot_um", [70, 65, 60, 55])
def test_a_spot_diameter_alone_agrees_too(spot_um: float, caplog: pytest.LogCaptureFixture) -> None:
    metadata = {SectionField.SPOT_PX: spot_um / 0.5}
    assert resolve_scale(lattice("hexagonal"), metadata, None, SETTINGS).mpp_by["spot diameter"] == pytest.approx(0.5)
    assert not caplog.records


def test_placeholders_only_warn(caplog: pytest.LogCaptureFixture) -> None:
    placeholders = {SectionField.SPOT_PX: 1.0, SectionField.FIDUCIAL_PX: 100.0}
    assert resolve_scale(lattice("hexagonal"), placeholders, None, SETTINGS).mpp == pytest.approx(0.5)
    assert "by the fiducials" in caplog.text and "0.5000 is used" in caplog.text


def test_one_source_that_agrees_outvotes_the_others(caplog: pytest.LogCaptureFixture) -> None:
    scale = resolve_scale(lattice("hexagonal"), visium(65, mpp=0.6), 0.5, SETTINGS)
    assert scale.mpp == pytest.approx(0.5)
    assert "0.6000 um per pixel by the fiducials; 0.5000 is used" in caplog.text


def test_a_scale_that_the_lattice_does_not_give_is_not_called_the_lattices() -> None:
    assert resolve_scale(lattice("square"), {"mpp": 0.4}, None, SETTINGS).mpp_by["lattice"] is None


def test_the_image_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolve_scale(lattice("hexagonal"), {"mpp": 0.5}, 0.51, SETTINGS)
        assert not caplog.records
        resolve_scale(lattice("hexagonal"), {"mpp": 0.5}, 0.6, SETTINGS)
    assert "0.6000 um per pixel by the image; 0.5000 is used" in caplog.text


THUMBNAILS = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.03}


def test_a_file_that_states_the_scale_of_bins_is_used_and_the_lattice_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metadata = {"pitch_um": 16.0, "spot_diameter_um": 16.0, "mpp": 0.6}
    scale = resolve_scale(lattice("square", 32.0), metadata, 0.5, SETTINGS)
    assert scale.mpp == 0.6
    assert "0.5000 um per pixel by the lattice; 0.6000 is used" in caplog.text


def test_a_pitch_of_the_users_wins_over_the_file_and_keeps_a_spot_of_the_same_array() -> None:
    metadata = {"pitch_um": 16.0, "spot_diameter_um": 16.0, "mpp": 0.5}
    scale = resolve_scale(lattice("square", 32.0), metadata, None, SectionSettings(pitch_um=16))
    assert (scale.mpp, scale.spot_um) == (0.5, 16)


REFUSED = {
    "nothing known": ("square", {}, None, 200.0, "section_checks.pitch_um"),
    "stated": ("hexagonal", {"mpp": 0.52}, None, 200.0, "0.5000 um per pixel by the lattice .* 0.5200 by the file"),
    "stated, square": ("square", {"mpp": 0.52, "pitch_um": 100}, None, 200.0, "0.5200 by the file"),
    "all others": (
        "hexagonal", visium(65, mpp=0.6), 0.8, 200.0,
        r"0.5000 um per pixel by the lattice .*0.6000 by the fiducials, 0.6000 by the spot diameter, 0.8000 by the "
        "image.*max_mpp_disagreement=<share>",
    ),
    "spot and image together": (
        "hexagonal", {SectionField.SPOT_PX: 65 / 0.45}, 0.481, 200.0, "0.4.* by the spot diameter"
    ),
    "stated, and a spot that fits any lattice": (
        "hexagonal", {"mpp": 0.6, SectionField.SPOT_PX: 130.0}, None, 200.0, "0.6000 by the file"
    ),
    "thumbnail": ("hexagonal", {}, None, 20.0, "5 um per pixel"),
    "thumbnail, stated": ("square", {"mpp": 4.0}, None, 20.0, "4 um per pixel"),
    "pixels of hires": ("hexagonal", visium(65), None, 20.0, "of the hires image.*tissue_hires_scalef = 0.1"),
    "pixels of lowres": ("hexagonal", visium(70), None, 6.0, "of the lowres image.*tissue_lowres_scalef = 0.03"),
    "micrometres": ("hexagonal", {}, 0.5, 100.0, "in micrometres"),
    "micrometres, no other source": ("hexagonal", {}, None, 100.2, "in micrometres.*section_checks.pitch_um=100"),
    "micrometres of bins": ("square", {"pitch_um": 16.0}, None, 16.0, "in micrometres"),
    "micrometres, scale factors in pixels": ("hexagonal", visium(65), None, 100.0, "in micrometres"),
    "array indices": ("square", {}, None, 1.41, "array rows and columns"),
    "array indices, fiducials in pixels": ("hexagonal", visium(65), None, 2.0, "array rows and columns"),
    "far too fine": ("hexagonal", {}, None, 1e4, "0.01 um per pixel"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "metadata", "image_mpp", "pitch_px", "message"), REFUSED.values(), ids=REFUSED)
def test_contradictions_are_refused(
    kind: LatticeKind, metadata: dict[str, Any], image_mpp: float | None, pitch_px: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve_scale(lattice(kind, pitch_px), metadata, image_mpp, SETTINGS, THUMBNAILS)


def test_one_micrometre_per_pixel_is_believed_where_something_confirms_it_or_the_user_says_so() -> None:
    confirmed = [({}, 1.0, SETTINGS), (visium(65, mpp=1.0), None, SETTINGS), ({}, None, SectionSettings(pitch_um=100))]
    for metadata, image_mpp, settings in confirmed:
        assert resolve_scale(lattice("hexagonal", 100.0), metadata, image_mpp, settings).mpp == pytest.approx(1)


def test_the_limit_of_disagreement_overrides() -> None:
    settings = SectionSettings(max_mpp_disagreement=0.3)
    assert resolve_scale(lattice("hexagonal"), visium(65, mpp=0.6), None, settings).mpp == pytest.approx(0.5)


SCATTERED = Lattice("scattered", np.zeros(2), np.eye(2) * 40.0, 0.0)


@pytest.mark.parametrize(
    ("metadata", "image_mpp", "settings", "expected"),
    [
        ({"mpp": 0.5}, 0.25, {}, (0.5, 20, 11)),
        ({}, 0.25, {}, (0.25, 10, 5.5)),
        ({"mpp": 0.5}, 0.25, {"mpp": 0.65}, (0.65, 26, 14.3)),
        ({"mpp": 0.5, "spot_diameter_um": 10.0}, None, {"pitch_um": 30}, (0.5, 30, 10)),
    ],
)
def test_scattered_spots_have_the_scale_that_is_stated(
    metadata: dict[str, Any], image_mpp: float | None, settings: dict[str, Any], expected: tuple[float]
) -> None:
    scale = resolve_scale(SCATTERED, metadata, image_mpp, SectionSettings(scattered=True, **settings))
    assert (scale.mpp, scale.pitch_um, scale.spot_um) == pytest.approx(expected)
    assert scale.mpp_by["file"] == settings.get("mpp", metadata.get("mpp")) and scale.mpp_by["image"] == image_mpp


def test_scattered_spots_without_a_scale_name_the_setting() -> None:
    with pytest.raises(InputError, match="section_checks.mpp=1"):
        resolve_scale(SCATTERED, {}, None, SectionSettings(scattered=True))

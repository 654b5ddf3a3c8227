"""Micrometres per pixel come from lattice, scale factors and image, in this order, and must agree."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.parameters import SectionSettings
from spamcaf.sections.lattice import UNIT_BASIS, Lattice, LatticeKind
from spamcaf.sections.scale import settle_scale

SETTINGS = SectionSettings()


def lattice(kind: LatticeKind, pitch_px: float = 200.0) -> Lattice:
    return Lattice(kind, np.zeros(2), UNIT_BASIS[kind] * pitch_px, 0.0)


@pytest.mark.parametrize(
    ("kind", "facts", "image_mpp", "pitch_um", "expected"),
    [
        ("hexagonal", {}, None, None, (0.5, 100, 55)),
        ("hexagonal", {}, 0.25, None, (0.5, 100, 55)),
        ("hexagonal", {}, None, 120, (0.6, 120, 66)),
        ("hexagonal", {"pitch_um": 110}, None, 120, (0.55, 110, 60.5)),
        ("hexagonal", {"mpp": 0.51, "spot_diameter_um": 65}, None, None, (0.5, 100, 65)),
        ("square", {"pitch_um": 16.0, "spot_diameter_um": 16.0, "mpp": 0.08}, None, None, (0.08, 16, 16)),
        ("square", {"mpp": 0.4}, 0.7, None, (0.4, 80, 44)),
        ("square", {}, 0.7, None, (0.7, 140, 77)),
        ("square", {}, 0.7, 200, (1.0, 200, 110)),
    ],
)
def test_the_surest_source_is_believed(
    kind: LatticeKind, facts: dict[str, Any], image_mpp: float | None, pitch_um: float | None, expected: tuple[float]
) -> None:
    if image_mpp and pitch_um:
        image_mpp = 1.0
    scale = settle_scale(lattice(kind), facts, image_mpp, SectionSettings(pitch_um=pitch_um))
    assert (scale.mpp, scale.pitch_um, scale.spot_um) == pytest.approx(expected)
    assert scale.mpp_by["scale factors"] == facts.get("mpp")
    assert scale.mpp_by["image"] == image_mpp


def test_a_scale_that_the_lattice_does_not_give_is_not_called_the_lattices() -> None:
    assert settle_scale(lattice("square"), {"mpp": 0.4}, None, SETTINGS).mpp_by["lattice"] is None


def test_the_image_only_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settle_scale(lattice("hexagonal"), {"mpp": 0.5}, 0.51, SETTINGS)
        assert not caplog.records
        settle_scale(lattice("hexagonal"), {"mpp": 0.5}, 0.6, SETTINGS)
    assert "0.6000 um per pixel, the section 0.5000" in caplog.text


REFUSED = {
    "nothing known": ("square", {}, None, 200.0, "section_checks.pitch_um"),
    "scale factors": ("hexagonal", {"mpp": 0.52}, None, 200.0, "0.5200 um per pixel by the scale factors, 0.5000"),
    "thumbnail": ("hexagonal", {}, None, 20.0, "5 um per pixel"),
    "thumbnail, stated": ("square", {"mpp": 4.0}, None, 20.0, "4 um per pixel"),
    "micrometres": ("hexagonal", {}, 0.5, 100.0, "in micrometres"),
    "far too fine": ("hexagonal", {}, None, 1e4, "0.01 um per pixel"),
}


@pytest.mark.parametrize(("kind", "facts", "image_mpp", "pitch_px", "message"), REFUSED.values(), ids=REFUSED)
def test_contradictions_are_refused(
    kind: LatticeKind, facts: dict[str, Any], image_mpp: float | None, pitch_px: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        settle_scale(lattice(kind, pitch_px), facts, image_mpp, SETTINGS)

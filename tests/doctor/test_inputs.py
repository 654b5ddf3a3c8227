"""Section, slide, identity and panel are looked at one by one; what cannot be looked at says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.doctor.check import Check, RunRequest, Status
from spamcaf.doctor.inputs import check_inputs
from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide

Ask = Callable[..., RunRequest]
Picture = Callable[..., NDArray[np.uint8]]
MISSING = InputError("no section.", "one.", "Put it there.")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def statuses(checks: list[Check]) -> list[str]:
    return [check.status.value for check in checks]


def test_a_good_section_passes_and_its_size_is_known(ask: Ask) -> None:
    checks, inputs = check_inputs(ask())
    assert statuses(checks) == ["PASS"] * 4
    assert inputs is not None
    assert (inputs.n_spots, inputs.image_px, inputs.is_held_whole) == (144, (1300, 1300), True)
    found = by_name(checks)
    assert "144 spots" in found["section"].found and "40 genes" in found["section"].found
    assert "1300 x 1300 px" in found["slide"].found
    assert "2.0000 um per pixel" in found["identity"].found


def test_the_reader_of_the_slide_and_what_it_converted_are_said(ask: Ask, picture: Picture) -> None:
    pixels = ArrayPixels(picture(), "f")
    slide = Slide(pixels, "a.tif", None, "tifffile", ("16 bits rescaled to 8",))
    checks, _ = check_inputs(ask(slide=slide))
    assert by_name(checks)["slide"].found.endswith("by tifffile; 16 bits rescaled to 8")


def test_a_scale_of_the_image_that_disagrees_is_told(ask: Ask, picture: Picture) -> None:
    pixels = ArrayPixels(picture(), "f")
    checks, _ = check_inputs(ask(slide=Slide(pixels, "a.tif", mpp=0.5)))
    identity = by_name(checks)["identity"]
    assert identity.status is Status.WARN
    assert "0.5000" in identity.found and "2.0000" in identity.found


def test_a_missing_section_does_not_keep_the_slide_from_being_opened(ask: Ask) -> None:
    checks, inputs = check_inputs(ask(raw_section=MISSING))
    assert statuses(checks) == ["FAIL", "PASS", "WARN", "WARN"]
    assert "needs the section" in checks[2].found
    assert inputs is None


def test_a_missing_slide_does_not_keep_the_section_from_being_read(ask: Ask) -> None:
    checks, inputs = check_inputs(ask(slide=MISSING))
    assert statuses(checks) == ["PASS", "FAIL", "WARN", "WARN"]
    assert "needs the slide" in checks[2].found
    assert inputs is None


@pytest.mark.parametrize("can_download", [True, False])
def test_the_download_is_named_where_there_is_one(ask: Ask, can_download: bool) -> None:
    checks, _ = check_inputs(ask(can_download=can_download, raw_section=MISSING, slide=MISSING))
    command = "`kedro run --pipeline download --env e --params section=S1`"
    for check in checks[:2]:
        assert check.fix.startswith("Put it there.")
        assert (command in check.fix) is can_download


def test_a_slide_of_another_section_fails(ask: Ask) -> None:
    tiny = Slide(ArrayPixels(np.zeros((200, 200, 3), np.uint8), "f"), "hires.png")
    checks, inputs = check_inputs(ask(slide=tiny))
    assert statuses(checks) == ["PASS", "PASS", "FAIL", "WARN"]
    assert "200 x 200 px" in by_name(checks)["identity"].found
    assert inputs is None


def test_an_image_that_shows_the_tissue_elsewhere_fails(ask: Ask, picture: Picture) -> None:
    image = np.roll(picture(), 700, axis=1)
    image[:, :700] = 240
    checks, inputs = check_inputs(ask(slide=Slide(ArrayPixels(image, "f"), "other.png")))
    assert statuses(checks) == ["PASS", "PASS", "FAIL", "WARN"]
    assert "on tissue" in by_name(checks)["identity"].found
    assert inputs is None


def test_spots_beside_the_image_are_told(ask: Ask, picture: Picture) -> None:
    checks, _ = check_inputs(ask(slide=Slide(ArrayPixels(picture(1150), "f"), "cut.png")))
    identity = by_name(checks)["identity"]
    assert identity.status is Status.WARN
    assert "12 spots lie outside" in identity.found


def test_too_few_spots_fail(ask: Ask) -> None:
    checks, _ = check_inputs(ask({"section_checks": {"min_spots": 500}}))
    assert "at least 500" in by_name(checks)["identity"].found


def test_an_impossible_panel_says_what_to_pass(ask: Ask) -> None:
    checks, inputs = check_inputs(ask({"panel": {"min_spots": 1000}}))
    panel = by_name(checks)["gene panel"]
    assert panel.status is Status.FAIL
    assert "0 of 40 genes" in panel.found and "panel.min_spots" in panel.fix
    assert inputs is not None


def test_a_panel_of_fewer_genes_than_asked_for_is_told(ask: Ask) -> None:
    checks, _ = check_inputs(ask({"panel": {"n_genes": 1000}}))
    panel = by_name(checks)["gene panel"]
    assert panel.status is Status.WARN
    assert panel.found.startswith("40 genes can be learned") and "not 1000 (panel.n_genes)" in panel.found


def test_genes_asked_for_and_absent_are_named(ask: Ask) -> None:
    checks, _ = check_inputs(ask({"panel": {"n_genes": 20, "include": ["gene3", "ENSG4", "ERBB2"]}}))
    panel = by_name(checks)["gene panel"]
    assert panel.status is Status.WARN
    assert panel.found.endswith(": ERBB2")


def test_the_inputs_are_left_as_they_were(ask: Ask) -> None:
    request = ask()
    raw = request.catalog["raw_section"].load()
    before = raw.X.toarray().copy()
    check_inputs(request)
    assert np.array_equal(raw.X.toarray(), before)
    assert "mpp" not in raw.uns["section"]

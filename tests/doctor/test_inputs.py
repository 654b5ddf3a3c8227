"""Section, slide, identity, panel and backbone are checked one by one; a check that cannot be made states why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kedro.io import MemoryDataset
from numpy.typing import NDArray

from spamcaf.backbones.weights import Weights
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.doctor.check import Check, RunRequest, Status
from spamcaf.doctor.inputs import check_backbone, check_inputs, is_non_commercial, read_spec
from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide

MakeRequest = Callable[..., RunRequest]
Image = Callable[..., NDArray[np.uint8]]
MISSING = InputError("no section.", "one.", "Put it there.")
ENTRY = {"source": "", "architecture": "test_vit", "width": 64, "licence": "Apache-2.0"}


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def statuses(checks: list[Check]) -> list[str]:
    return [check.status.value for check in checks]


def test_a_good_section_passes_and_its_size_is_known(make_request: MakeRequest) -> None:
    checks, inputs = check_inputs(make_request())
    assert statuses(checks) == ["PASS"] * 4
    assert inputs is not None
    assert (inputs.n_spots, inputs.image_px, inputs.is_held_whole) == (144, (1300, 1300), True)
    found = by_name(checks)
    assert "144 spots" in found["section"].found and "40 genes" in found["section"].found
    assert "1300 x 1300 px" in found["slide"].found
    assert "2.0000 um per pixel" in found["identity"].found


def test_an_orientation_that_cannot_be_told_is_a_warning(make_request: MakeRequest) -> None:
    request = make_request()
    request.catalog["raw_section"].value.uns.pop("spatial")
    checks, inputs = check_inputs(request)
    identity = by_name(checks)["identity"]
    assert identity.status is Status.WARN and "section_overlay.png" in identity.fix
    assert "the orientation cannot be told: " in identity.found
    assert inputs is not None and by_name(checks)["gene panel"].status is Status.PASS


def test_the_reader_of_the_slide_and_its_conversions_are_named(make_request: MakeRequest, image: Image) -> None:
    pixels = ArrayPixels(image(), "f")
    slide = Slide(pixels, "a.tif", None, "tifffile", ("16 bits rescaled to 8",))
    checks, _ = check_inputs(make_request(slide=slide))
    assert by_name(checks)["slide"].found.endswith("by tifffile; 16 bits rescaled to 8")


def test_a_scale_of_the_image_that_disagrees_is_a_warning(make_request: MakeRequest, image: Image) -> None:
    pixels = ArrayPixels(image(), "f")
    checks, _ = check_inputs(make_request(slide=Slide(pixels, "a.tif", mpp=0.5)))
    identity = by_name(checks)["identity"]
    assert identity.status is Status.WARN
    assert "0.5000" in identity.found and "2.0000" in identity.found


def test_a_missing_section_does_not_keep_the_slide_from_being_opened(make_request: MakeRequest) -> None:
    checks, inputs = check_inputs(make_request(raw_section=MISSING))
    assert statuses(checks) == ["FAIL", "PASS", "WARN", "WARN"]
    assert "needs the section" in checks[2].found
    assert inputs is None


def test_a_missing_slide_does_not_keep_the_section_from_being_read(make_request: MakeRequest) -> None:
    checks, inputs = check_inputs(make_request(slide=MISSING))
    assert statuses(checks) == ["PASS", "FAIL", "WARN", "WARN"]
    assert "needs the slide" in checks[2].found
    assert inputs is None


@pytest.mark.parametrize("can_download", [True, False])
def test_the_download_is_named_where_there_is_one(make_request: MakeRequest, can_download: bool) -> None:
    checks, _ = check_inputs(make_request(can_download=can_download, raw_section=MISSING, slide=MISSING))
    command = "`kedro run --pipelines download --env e --params section=S1`"
    for check in checks[:2]:
        assert check.fix.startswith("Put it there.")
        assert (command in check.fix) is can_download


def test_a_slide_of_another_section_fails(make_request: MakeRequest) -> None:
    tiny = Slide(ArrayPixels(np.zeros((200, 200, 3), np.uint8), "f"), "hires.png")
    checks, inputs = check_inputs(make_request(slide=tiny))
    assert statuses(checks) == ["PASS", "PASS", "FAIL", "WARN"]
    assert "200 x 200 px" in by_name(checks)["identity"].found
    assert inputs is None


def test_an_image_that_shows_the_tissue_elsewhere_fails(make_request: MakeRequest, image: Image) -> None:
    image = np.roll(image(), 700, axis=1)
    image[:, :700] = 240
    checks, inputs = check_inputs(make_request(slide=Slide(ArrayPixels(image, "f"), "other.png")))
    assert statuses(checks) == ["PASS", "PASS", "FAIL", "WARN"]
    assert "on tissue" in by_name(checks)["identity"].found
    assert inputs is None


def test_spots_outside_the_image_are_counted(make_request: MakeRequest, image: Image) -> None:
    checks, _ = check_inputs(make_request(slide=Slide(ArrayPixels(image(1150), "f"), "cut.png")))
    identity = by_name(checks)["identity"]
    assert identity.status is Status.WARN
    assert "12 spots lie outside" in identity.found


def test_too_few_spots_fail(make_request: MakeRequest) -> None:
    checks, _ = check_inputs(make_request({"section_checks": {"min_spots": 500}}))
    assert "at least 500" in by_name(checks)["identity"].found


def test_an_impossible_panel_names_the_setting(make_request: MakeRequest) -> None:
    checks, inputs = check_inputs(make_request({"panel": {"min_spots": 1000}}))
    panel = by_name(checks)["gene panel"]
    assert panel.status is Status.FAIL
    assert "0 of 40 genes" in panel.found and "panel.min_spots" in panel.fix
    assert inputs is not None


def test_a_panel_of_fewer_genes_than_required_is_a_warning(make_request: MakeRequest) -> None:
    checks, _ = check_inputs(make_request({"panel": {"n_genes": 1000}}))
    panel = by_name(checks)["gene panel"]
    assert panel.status is Status.WARN
    assert panel.found.startswith("40 genes can be learned") and "not 1000 (panel.n_genes)" in panel.found


def test_required_genes_that_are_absent_are_named(make_request: MakeRequest) -> None:
    checks, _ = check_inputs(make_request({"panel": {"n_genes": 20, "include": ["gene3", "ENSG4", "ERBB2"]}}))
    panel = by_name(checks)["gene panel"]
    assert panel.status is Status.WARN
    assert panel.found.endswith(": ERBB2")


def test_the_inputs_are_left_as_they_were(make_request: MakeRequest) -> None:
    request = make_request()
    raw = request.catalog["raw_section"].load()
    before = raw.X.toarray().copy()
    check_inputs(request)
    assert np.array_equal(raw.X.toarray(), before)
    assert "mpp" not in raw.uns["section"]


def request_with(make_request: MakeRequest, dataset: object) -> RunRequest:
    request = make_request()
    request.catalog["backbone"] = dataset
    return request


def entry(source: object = "", **changes: Any) -> BackboneDataset:
    return BackboneDataset(name="it", backbones={"it": {**ENTRY, "source": str(source), **changes}})


def test_weights_in_a_folder_pass_with_their_size(make_request: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 3_000_000)
    finding = check_backbone(request_with(make_request, entry(tmp_path)))
    assert not finding.fix
    assert "model.safetensors (3.0 MB), licence Apache-2.0" in finding.text


def test_weights_on_the_hub_pass_without_a_download(make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneDataset, "probe", lambda *_: Weights("owner/tiny", False, 1_200_000_000))
    finding = check_backbone(request_with(make_request, entry()))
    assert not finding.fix
    assert "on the hub" in finding.text and "1.2 GB" in finding.text


def test_a_non_commercial_licence_warns(make_request: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0")
    finding = check_backbone(request_with(make_request, entry(tmp_path, licence="CC-BY-NC-ND-4.0")))
    assert finding.fix
    assert "CC-BY-NC-ND-4.0" in finding.text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC-BY-NC-4.0", True), ("cc-by-nc-nd-4.0", True), ("Apache-2.0", False), ("unknown", False), ("NCSA", False)],
)
def test_non_commercial_licences_are_recognised(licence: str, expected: bool) -> None:
    assert is_non_commercial(licence) is expected


def test_missing_weights_are_the_backbones_own_error(make_request: MakeRequest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights in"):
        check_backbone(request_with(make_request, entry(tmp_path)))


def test_an_entry_of_another_type_only_warns(make_request: MakeRequest) -> None:
    request = request_with(make_request, MemoryDataset(1))
    assert check_backbone(request).fix
    assert read_spec(request) is None

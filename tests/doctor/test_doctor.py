"""All checks are made, whichever of them fail; the report is a table for people and one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from kedro.config import MissingConfigException

from spamcaf.datasets.inputs import BackboneDataset, ReferencesDataset
from spamcaf.doctor import doctor, machine
from spamcaf.doctor.check import Check, RunRequest, Status
from spamcaf.errors import InputError
from tests.conftest import BACKBONE

MakeRequest = Callable[..., RunRequest]
ALL = [
    "configuration", "section", "slide", "identity", "gene panel", "backbone", "reference", "time", "device", "memory",
    "disk", "software",
]  # fmt: skip
MISSING = InputError("nothing.", "something.", "Do it.")
REPORT = [
    Check("disk", Status.PASS, "much"), Check("backbone", Status.WARN, "somewhere", "Do this."),
    Check("slide", Status.FAIL, "x", "Fix."),
]  # fmt: skip


def context_of(request: RunRequest, parameters: dict[str, Any], **chosen: object) -> Any:
    return SimpleNamespace(
        config_loader={"globals": {"section": "S1", "backbone": "it", **chosen}},
        params={**request.settings.model_dump(), **parameters},
        catalog=request.catalog,
        env="e",
        project_path=request.root,
    )


def examine(
    request: RunRequest, folder: Path, parameters: dict[str, Any] | None = None, **chosen: object
) -> dict[str, Check]:
    entry = {"source": str(folder), **BACKBONE}
    request.catalog["backbone"] = BackboneDataset(name="it", backbones={"it": entry})
    checks = doctor.examine(lambda: context_of(request, parameters or {}, **chosen), request.root)
    return {check.name: check for check in checks}


@pytest.fixture
def weights(tiny_weights: Path) -> Path:
    return tiny_weights


def failures(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.status is Status.FAIL]


def test_all_pass_and_nothing_is_written(make_request: MakeRequest, weights: Path, tmp_path: Path) -> None:
    checks = examine(make_request(), weights)
    assert list(checks) == ALL
    assert not failures(checks)
    assert "up to 576 sites" in checks["memory"].found
    assert "features take up to 1.3 MB" in checks["disk"].found
    assert not list(tmp_path.iterdir())


def test_damaged_weights_are_a_failure(make_request: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0")
    assert failures(examine(make_request(), tmp_path)) == ["time"]


def test_a_missing_section_leaves_the_rest_checked(make_request: MakeRequest, weights: Path) -> None:
    checks = examine(make_request(raw_section=MISSING), weights)
    assert list(checks) == ALL
    assert failures(checks) == ["section"]
    assert checks["disk"].status is Status.PASS


def test_everything_may_fail_at_once(
    make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("no software")

    monkeypatch.setattr(machine, "check_software", broken)
    checks = examine(make_request(raw_section=MISSING, slide=ZeroDivisionError("odd")), tmp_path)
    assert list(checks) == ALL
    assert failures(checks) == ["section", "slide", "backbone", "software"]
    assert checks["slide"].found == "ZeroDivisionError: odd"
    assert checks["software"].found == "RuntimeError: no software"


def test_an_unknown_backbone_is_named_once(make_request: MakeRequest) -> None:
    request = make_request()
    request.catalog["backbone"] = BackboneDataset(name="unni", backbones={"it": {}})
    checks = {c.name: c for c in doctor.examine(lambda: context_of(request, {}), request.root)}
    assert failures(checks) == ["backbone"]
    assert "one of it" in checks["backbone"].found


def raising(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MissingConfigException("Given configuration path does not exist: conf/nope"), "conf/nope"),
        (InputError("grid.subdivide = 99.", "at most 8.", "Correct it."), "grid.subdivide = 99"),
        (ValueError("bad\nYAML"), "ValueError: bad YAML"),
    ],
)
def test_without_a_configuration_the_machine_is_checked_all_the_same(
    tmp_path: Path, error: Exception, message: str
) -> None:
    checks = {check.name: check for check in doctor.examine(raising(error), tmp_path)}
    assert failures(checks) == ["configuration"]
    assert message in checks["configuration"].found
    assert checks["configuration"].fix
    assert {"device", "memory", "disk", "software"} < set(checks)
    assert checks["section"].status is checks["backbone"].status is Status.WARN


def test_a_fault_of_the_program_is_not_blamed_on_the_configuration(tmp_path: Path) -> None:
    def load() -> Any:
        raise AttributeError("no such attribute")

    load.__code__ = load.__code__.replace(co_filename=str(Path(doctor.__file__)))
    checks = {check.name: check for check in doctor.examine(load, tmp_path)}
    assert checks["configuration"].found == "AttributeError: no such attribute"
    assert "fault of the program" in checks["configuration"].fix


def test_settings_out_of_range_are_a_failure(make_request: MakeRequest, weights: Path) -> None:
    checks = examine(make_request(), weights, {"grid": {"subdivide": 99}})
    assert "grid.subdivide = 99" in checks["configuration"].found


def test_the_download_command_has_the_same_options(make_request: MakeRequest, weights: Path) -> None:
    parameters = {"section": "S9", "raw_root": "/raw"}
    checks = examine(make_request(raw_section=MISSING), weights, parameters, downloads={"S9": []})
    assert "--pipelines download --env e --params section=S9,raw_root=/raw`" in checks["section"].fix
    assert "environment e, section S9" in checks["configuration"].found


def test_every_check_has_a_line_and_its_fix_below() -> None:
    lines = click.unstyle(doctor.as_text(REPORT)).splitlines()
    assert lines[0] == "PASS  disk      much"
    assert lines[1:3] == ["WARN  backbone  somewhere", "                fix: Do this."]
    assert lines[-1] == "Not ready to run: of 3 checks 1 failed, 1 with a warning."
    assert click.unstyle(doctor.as_text(REPORT[:1])).endswith("Ready to run: 1 checks, none failed.")


def test_json_has_the_worst_status_and_all_fields() -> None:
    report = json.loads(doctor.as_json(REPORT))
    assert report["status"] == "FAIL"
    assert report["checks"][1] == {"name": "backbone", "status": "WARN", "found": "somewhere", "fix": "Do this."}
    assert len(report["checks"]) == 3


def test_the_worst_status_counts() -> None:
    fine, doubtful, bad = REPORT
    assert doctor.worst([]) is Status.PASS
    assert doctor.worst([fine, doubtful, fine]) is Status.WARN
    assert doctor.worst([bad, doubtful, fine]) is Status.FAIL


def test_a_reference_that_is_not_there_fails_before_any_work(
    make_request: Callable[..., RunRequest], weights: Path
) -> None:
    request = make_request()
    given = {"filepath": str(weights / "data/02_intermediate"), "section": "S1", "raw_root": str(weights)}
    (weights / "atlas.csv").write_text("cell,A1BG\nc,1\n")
    for names, status in (("atlas.csv", Status.PASS), ("atlas.csv+none.h5ad", Status.FAIL), ("S1", Status.FAIL)):
        request.catalog["references"] = ReferencesDataset(names=names, **given)
        assert examine(request, weights)["reference"].status is status

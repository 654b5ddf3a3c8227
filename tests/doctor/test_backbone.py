"""What is said of a backbone whose weights are here, on the hub or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.io import MemoryDataset

from spamcaf.backbones.weights import Weights
from spamcaf.datasets.backbone import BackboneDataset
from spamcaf.doctor.check import RunRequest, Status
from spamcaf.doctor.inputs import check_backbone, is_non_commercial, read_spec
from spamcaf.errors import InputError

Ask = Callable[..., RunRequest]
ENTRY = {"source": "", "architecture": "test_vit", "width": 64, "licence": "Apache-2.0"}


def asked_for(ask: Ask, dataset: object) -> RunRequest:
    request = ask()
    request.catalog["backbone"] = dataset
    return request


def entry(source: object = "", **changes: Any) -> BackboneDataset:
    return BackboneDataset(name="it", backbones={"it": {**ENTRY, "source": str(source), **changes}})


def test_weights_in_a_folder_pass_with_their_size(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 3_000_000)
    check, _ = check_backbone(asked_for(ask, entry(tmp_path)))
    assert check.status is Status.PASS
    assert "model.safetensors (3 MB), licence Apache-2.0" in check.found


def test_weights_on_the_hub_pass_without_a_download(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BackboneDataset, "probe", lambda *_: Weights("owner/tiny", False, 1_200_000_000))
    check, _ = check_backbone(asked_for(ask, entry()))
    assert check.status is Status.PASS
    assert "on the hub" in check.found and "1.2 GB" in check.found


def test_a_non_commercial_licence_warns(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0")
    check, _ = check_backbone(asked_for(ask, entry(tmp_path, licence="CC-BY-NC-ND-4.0")))
    assert check.status is Status.WARN
    assert "CC-BY-NC-ND-4.0" in check.found


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC-BY-NC-4.0", True), ("cc-by-nc-nd-4.0", True), ("Apache-2.0", False), ("unknown", False), ("NCSA", False)],
)
def test_non_commercial_is_told_by_the_licence(licence: str, expected: bool) -> None:
    assert is_non_commercial(licence) is expected


def test_missing_weights_are_the_backbones_own_error(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights in"):
        check_backbone(asked_for(ask, entry(tmp_path)))


def test_an_entry_of_another_type_only_warns(ask: Ask) -> None:
    request = asked_for(ask, MemoryDataset(1))
    assert check_backbone(request)[0].status is Status.WARN
    assert read_spec(request) is None

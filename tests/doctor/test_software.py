"""Versions are listed; a package that is missing or does not fit is an error."""

from __future__ import annotations

import sys

import pytest
import torch

from spamcaf.doctor import doctor
from spamcaf.doctor.check import Status
from spamcaf.errors import InputError


def test_versions_are_listed() -> None:
    check, _ = doctor.check_software()
    assert check.status is Status.PASS
    assert f"torch {torch.__version__.partition('+')[0]}" in check.found
    assert all(name in check.found for name in ("python", *doctor.PACKAGES))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("kedro", "no-such-package"))
    with pytest.raises(InputError, match="no-such-package not installed"):
        doctor.check_software()


def test_a_torchvision_that_does_not_fit_torch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import raises ImportError
    with pytest.raises(InputError, match="do not work together"):
        doctor.check_software()

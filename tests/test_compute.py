"""Device and precision: automatic choices are sound, explicit ones are kept or refused."""

from __future__ import annotations

import pytest
import torch

from spamcaf.compute import choose_device, choose_precision, computing, seeded
from spamcaf.errors import InputError
from spamcaf.parameters import ComputeSettings


@pytest.mark.parametrize(
    ("has_cuda", "asked", "device"), [(True, "auto", "cuda"), (False, "auto", "cpu"), (True, "cpu", "cpu")]
)
def test_device(monkeypatch: pytest.MonkeyPatch, has_cuda: bool, asked: str, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert choose_device(ComputeSettings(device=asked)).type == device


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute\.device"):
        choose_device(ComputeSettings(device="cuda"))


@pytest.mark.parametrize(
    ("asked", "device", "native", "dtype"),
    [
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float32),
        ("auto", "cpu", True, torch.bfloat16),
        ("auto", "cpu", False, torch.float32),
        ("float32", "cuda", True, torch.float32),
        ("bf16", "cpu", False, torch.bfloat16),
    ],
)
def test_precision(monkeypatch: pytest.MonkeyPatch, asked: str, device: str, native: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert choose_precision(ComputeSettings(precision=asked), torch.device(device)) is dtype


def test_threads_are_put_back_after_an_error() -> None:
    before, inside = torch.get_num_threads(), []

    def fail() -> None:
        with computing(ComputeSettings(device="cpu", threads=before + 1)):
            inside.append(torch.get_num_threads())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


def test_a_seed_holds_inside_only() -> None:
    outside = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(3, torch.device("cpu")):
            drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), outside)

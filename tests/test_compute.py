"""Device and precision: automatic choices are sound, explicit ones are kept or refused."""

from __future__ import annotations

import os
import subprocess
import sys

import joblib
import pytest
import torch

from spamcaf.compute import (
    NUMBA_VARIABLE,
    THREAD_VARIABLES,
    choose_device,
    choose_precision,
    computing,
    seeded,
    thread_count,
    use_threads,
)
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


@pytest.mark.parametrize(
    ("setting", "variable", "expected"),
    [(3, "5", 3), (0, "5", 5), (0, "5,2", 5), (0, "", 7), (0, None, 7), (0, "x", 7)],
)
def test_threads_are_the_settings_then_the_users_then_all_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, setting: int, variable: str | None, expected: int
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 7)
    if variable is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_count(ComputeSettings(threads=setting)) == expected


SHOWN = """
import sys
from spamcaf.compute import use_threads
if "later" in sys.argv:
    use_threads(1)
import numba, torch, numpy
from threadpoolctl import threadpool_info
@numba.njit(parallel=True)
def total(values):
    s = 0.0
    for i in numba.prange(len(values)):
        s += values[i]
    return s
numpy.ones((50, 50)) @ numpy.ones((50, 50))
if "running" in sys.argv:
    total(numpy.ones(1000))
use_threads(1)
assert total(numpy.ones(1000)) == 1000  # numba's OpenMP layer sets the threads of the whole process
print(torch.get_num_threads(), numba.get_num_threads(), {pool["num_threads"] for pool in threadpool_info()})
"""


@pytest.mark.parametrize("when", ["running", "later"])
def test_every_library_has_the_threads_loaded_before_or_after(when: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in (*THREAD_VARIABLES, NUMBA_VARIABLE)}
    command = [sys.executable, "-c", SHOWN, when]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    torch_threads, numba_threads, pools = done.stdout.split(" ", 2)
    assert numba_threads == "1"
    if when == "later":
        assert (torch_threads, pools) == ("1", "{1}\n")


def test_threads_reach_processes_that_are_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert {os.environ[name] for name in THREAD_VARIABLES} == {"2"}
        assert torch.get_num_threads() == 2
    finally:
        use_threads(before)

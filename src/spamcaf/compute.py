"""Device, precision and threads of a run."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spamcaf.errors import InputError

if TYPE_CHECKING:
    import torch

    from spamcaf.parameters import ComputeSettings


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
NUMBA_VARIABLE = "NUMBA_NUM_THREADS"
"""What numerical libraries read when they are loaded, here and in processes that are started later."""


def thread_count(compute: ComputeSettings) -> int:
    """Return the CPU threads of a run: `compute.threads`, else OMP_NUM_THREADS, else all cores that it may use.

    Cores are those of the process' affinity and its container's quota, as SLURM and Kubernetes set them.
    """
    import joblib

    asked = re.match(r"\s*(\d+)", os.environ.get(THREAD_VARIABLES[0], ""))  # "4,2": the second is of nested regions
    return compute.threads or (int(asked[1]) if asked else 0) or int(joblib.cpu_count())


def use_threads(n: int) -> None:
    """Give torch, BLAS, OpenMP and numba `n` threads, whether they are loaded already or will be."""
    from threadpoolctl import threadpool_limits

    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(n)))
    threadpool_limits(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
    before = os.environ.get(NUMBA_VARIABLE)
    os.environ[NUMBA_VARIABLE] = str(n)
    if "numba" in sys.modules:
        numba = sys.modules["numba"]
        try:
            numba.config.reload_config()
        except RuntimeError:  # its threads run already: the variable must stay, and no more of them can be had
            os.environ.pop(NUMBA_VARIABLE)
            if before is not None:
                os.environ[NUMBA_VARIABLE] = before
            numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))


def choose_device(compute: ComputeSettings) -> torch.device:
    """Return the device of the settings, `auto` being CUDA where there is one; raise InputError for missing CUDA."""
    import torch

    if compute.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device.", "one, since compute.device is cuda.", "Set compute.device to auto or cpu.")
    use_cuda = compute.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def _has_bf16_cores(device: torch.device) -> bool:
    import torch

    # older GPUs emulate bf16, slowly
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass(frozen=True)
class Machine:
    """A device, and whether forward passes run in bf16 there."""

    device: torch.device
    use_bf16: bool

    def autocast(self) -> torch.autocast:
        """Return the context for forward passes."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.use_bf16)


@contextmanager
def computing(compute: ComputeSettings) -> Iterator[Machine]:
    """Give the device and precision of training, and set torch's CPU threads; they are reset afterwards."""
    import torch

    device = choose_device(compute)
    use_bf16 = compute.precision == "bf16" or (compute.precision == "auto" and _has_bf16_cores(device))
    with threads_kept():
        if compute.threads:
            torch.set_num_threads(compute.threads)
        yield Machine(device, use_bf16)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside the block, on CPU and `device`; the states of its generators outside are unchanged."""
    import torch

    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def choose_precision(compute: ComputeSettings, device: torch.device) -> torch.dtype:
    """Return the backbone's precision: `auto` is bf16 where the hardware computes it natively, else float32.

    A CPU with AVX512-BF16 or AMX runs EfficientNet-lite0 about twice as fast in bf16 as in float32.
    """
    import torch

    is_native = _has_bf16_cores(device) or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    use_bf16 = compute.precision == "bf16" or (compute.precision == "auto" and is_native)
    return torch.bfloat16 if use_bf16 else torch.float32


@contextmanager
def threads_kept() -> Iterator[None]:
    """Put torch's CPU threads back afterwards, which a library inside may change for the whole process.

    numba does: where it starts its OpenMP threads it sets their number to all cores, whatever OMP_NUM_THREADS is. That
    slows a busy machine down, and sums of later steps differ in their last bits.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""What a fit decided for each gene program, as rows of a table."""

from __future__ import annotations

from typing import Any

from spamcaf.learning.kernels import IMAGE_KERNELS, SPACE_KERNELS
from spamcaf.learning.model import Mode, SpamcafModel
from spamcaf.learning.models import FittedModel

KERNELS = {"recovery": IMAGE_KERNELS + SPACE_KERNELS, "transfer": IMAGE_KERNELS}

COLUMNS = ("program", "shrink", *(f"{mode}_{part}" for mode in KERNELS for part in ("share", *KERNELS[mode], "noise")))
"""Number of the program from 0; share of its variance that is signal; then for recovery, among measured spots, and for
transfer, on sections without any: the network's share in the mix, and the process' kernel weights and noise, variances
in squared scores."""


def program_rows(model: FittedModel) -> list[dict[str, Any]]:
    """Return a row of `COLUMNS` per program; none for a model without programs."""
    if not isinstance(model, SpamcafModel):
        return []
    modes = {"recovery": model.recovery, "transfer": model.transfer}
    return [
        {"program": number, "shrink": float(shrink)}
        | {name: value for mode, how in modes.items() for name, value in _decided(mode, how, number).items()}
        for number, shrink in enumerate(model.programs.shrink)
    ]


def _decided(mode: str, how: Mode, number: int) -> dict[str, float]:
    weights = dict(zip(KERNELS[mode], how.hyper.weights[number].tolist(), strict=True))
    values = {"share": float(how.mix.weights[number]), **weights, "noise": float(how.hyper.noise[number])}
    return {f"{mode}_{name}": value for name, value in values.items()}

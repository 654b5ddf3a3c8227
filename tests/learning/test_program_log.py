from __future__ import annotations

import pytest

from spamcaf.model.fit import Fitted
from spamcaf.model.trained import COLUMNS, program_rows


def test_each_program_has_a_row_of_what_was_decided(fitted: Fitted) -> None:
    model = fitted.model
    rows = program_rows(model)
    assert [row["program"] for row in rows] == list(range(len(model.programs)))
    assert all(tuple(row) == COLUMNS for row in rows)
    last = rows[-1]
    assert last["shrink"] == model.programs.shrink[-1]
    assert last["recovery_share"] == model.recovery.mix.weights[-1]
    assert last["transfer_share"] == model.transfer.mix.weights[-1]
    kernels = [last[f"recovery_{k}"] for k in ("target", "surround", "matern_2", "matern_5", "exponential_3", "noise")]
    assert kernels == pytest.approx([*model.recovery.hyper.weights[-1], model.recovery.hyper.noise[-1]], abs=0)
    assert last["transfer_target"] == model.transfer.hyper.weights[-1, 0]
    assert last["transfer_noise"] == model.transfer.hyper.noise[-1]


def test_a_model_without_programs_has_no_rows() -> None:
    assert program_rows(object()) == []  # type: ignore[arg-type]

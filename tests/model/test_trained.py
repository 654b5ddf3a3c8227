from __future__ import annotations

import pytest

from spamcaf.model.fit import Fitted
from spamcaf.model.trained import PROGRAM_COLUMNS, program_rows


def test_each_program_has_a_row_of_what_was_decided(fitted: Fitted) -> None:
    model = fitted.model
    rows = program_rows(model)
    assert [row["program"] for row in rows] == list(range(len(model.programs)))
    assert all(tuple(row) == PROGRAM_COLUMNS for row in rows)
    last = rows[-1]
    assert last["signal_fraction"] == model.programs.signal_fraction[-1]
    assert last["within_section_network_weight"] == model.within_section.stacking.network_weight[-1]
    assert last["new_section_network_weight"] == model.new_section.stacking.network_weight[-1]
    kernels = [
        last[f"within_section_{k}"]
        for k in ("target", "neighbourhood", "matern_2", "matern_5", "exponential_3", "noise")
    ]
    assert kernels == pytest.approx(
        [*model.within_section.hyper.weights[-1], model.within_section.hyper.noise[-1]], abs=0
    )
    assert last["new_section_target"] == model.new_section.hyper.weights[-1, 0]
    assert last["new_section_noise"] == model.new_section.hyper.noise[-1]


def test_a_model_without_programs_has_no_rows() -> None:
    assert program_rows(object()) == []  # type: ignore[arg-type]

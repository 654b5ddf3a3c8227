"""Provenance records are strict JSON."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamcaf.names import Metric
from spamcaf.parameters import ReportSettings
from spamcaf.provenance import as_plain, plain, run_record

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.floats(width=32).map(np.float32)
values = st.recursive(leaves, lambda v: st.lists(v) | st.tuples(v, v) | st.dictionaries(st.text(), v), max_leaves=20)


@given(values)
def test_the_result_is_strict_json(value: object) -> None:
    text = json.dumps(plain(value), allow_nan=False)
    assert json.loads(text) == plain(value)


def test_what_numpy_and_enums_become() -> None:
    record = {Metric.MSE: np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "xy": np.array([[1.0, np.inf]])}
    assert plain(record) == {"mse": 0.5, "n": 3, "ok": True, "xy": [[1.0, None]]}
    assert plain(PurePosixPath("a/b")) == "a/b"


def test_a_run_is_recorded_with_its_date_command_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/kedro", "run", "--params", "panel.include=A B"])
    record = run_record(7)
    assert record["command"] == "kedro run --params 'panel.include=A B'"
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(record["date"])).total_seconds()) < 120
    assert (record["seed"], record["torch"]) == (7, version("torch"))


def test_parameters_become_plain_whether_kedro_built_objects_of_them_or_not() -> None:
    settings = ReportSettings(genes=["A"], n_genes=3, max_polygons=9)
    expected = {"seed": 1, "report": {"genes": ["A"], "n_genes": 3, "max_polygons": 9}}
    assert as_plain({"seed": 1, "report": settings}) == as_plain(expected) == expected

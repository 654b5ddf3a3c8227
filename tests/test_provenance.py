"""Provenance records are strict JSON."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spamcaf.names import Metric
from spamcaf.provenance import plain

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

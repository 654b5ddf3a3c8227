from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spamcaf.model.released import chunks, released_learning_rate
from spamcaf.parameters import ReleasedSettings

ORIGINAL = ReleasedSettings()


@given(st.integers(2, 400), st.integers(3, 60))
def test_chunks_hold_every_spot_once_in_order_and_never_one_alone(n_spots: int, size: int) -> None:
    found = [np.arange(n_spots)[rows] for rows in chunks(n_spots, size)]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(n_spots))
    assert all(2 <= len(rows) <= size for rows in found)
    assert len(found) == -(-n_spots // size)


def test_a_single_spot_left_over_gets_company() -> None:
    assert [len(range(101)[rows]) for rows in chunks(101, 50)] == [50, 49, 2]
    assert [len(range(102)[rows]) for rows in chunks(102, 50)] == [50, 50, 2]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 2e-4), (1, 4e-4), (4, 1e-3), (5, 1e-3), (5 + 199, 9.05e-4), (999, 0.0)]
)
def test_the_rate_warms_up_and_follows_a_cosine(epoch: int, expected: float) -> None:
    assert released_learning_rate(epoch, ORIGINAL) == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_half_way_down_is_half_the_rate() -> None:
    assert released_learning_rate(55, ReleasedSettings(epochs=105)) == pytest.approx(5e-4)


def test_a_run_may_be_shorter_than_its_warm_up_or_have_none() -> None:
    assert [released_learning_rate(epoch, ReleasedSettings(epochs=2)) for epoch in range(2)] == pytest.approx(
        [2e-4, 4e-4]
    )
    assert released_learning_rate(0, ReleasedSettings(warmup_epochs=0)) == pytest.approx(1e-3)

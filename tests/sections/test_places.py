"""Sites are selected whole: position, tile, window and, where there is one, the shrunk window."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.sections.sites import Sites

N = 5
WINDOWS = np.arange(N * 18, dtype=np.float32).reshape(N, 9, 2)
XY = np.arange(N * 2, dtype=float).reshape(N, 2)


@pytest.mark.parametrize("index", [np.array([3, 1]), np.arange(N) > 2, slice(1, 3)])
def test_every_part_follows_the_index(index) -> None:
    found = Sites(XY, WINDOWS[:, 4], WINDOWS, WINDOWS[:, 0]).at(index)
    np.testing.assert_array_equal(found.xy_um, XY[index])
    np.testing.assert_array_equal(found.target, WINDOWS[index, 4])
    np.testing.assert_array_equal(found.neighbours, WINDOWS[index])
    np.testing.assert_array_equal(found.whole, WINDOWS[index, 0])
    assert Sites(XY, WINDOWS[:, 4], WINDOWS).at(index).whole is None


def test_parts_of_other_lengths_are_refused() -> None:
    for parts in ((WINDOWS[1:, 4], WINDOWS), (WINDOWS[:, 4], WINDOWS[1:]), (WINDOWS[:, 4], WINDOWS, WINDOWS[1:, 0])):
        with pytest.raises(ValueError, match="the same site ids"):
            Sites(XY, *parts)

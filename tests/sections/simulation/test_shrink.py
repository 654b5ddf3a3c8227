from __future__ import annotations

import numpy as np
import pytest

from spamcaf.simulation.image import area_weights, shrunk


@pytest.mark.parametrize(("n_from", "n_to"), [(10, 10), (10, 3), (317, 200), (7, 1)])
def test_every_source_pixel_counts_equally(n_from: int, n_to: int) -> None:
    weights = area_weights(n_from, n_to)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=1)).ravel(), 1)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=0)).ravel(), n_to / n_from)


def test_strips_give_block_means_whatever_their_height() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.rint(picture.reshape(20, 2, 30, 2, 3).mean(axis=(1, 3)))
    for height in (40, 7):
        strips = [picture[top : top + height] for top in range(0, 40, height)]
        small = shrunk(strips, (40, 60), 30)
        assert np.abs(small - expected).max() <= 1  # halves may round either way
    np.testing.assert_array_equal(shrunk([picture], (40, 60), 100), picture)
